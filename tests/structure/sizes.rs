//! Limits on the size of a file, a directory, a function and a name.

use std::collections::BTreeMap;

use syn::{
    Block, FnArg, Signature, Type,
    spanned::Spanned,
    visit::{self, Visit},
};

use crate::{
    Problem,
    tree::{Source, Tree, has},
};

const FILE_LINES: usize = 450;
const DIRECTORY_FILES: usize = 14;
const FUNCTION_LINES: usize = 90;
const PARAMETERS: usize = 6;
const TUPLE: usize = 2;
const TEST_NAME: usize = 60;

pub(crate) fn files_are_short(tree: &Tree) -> Vec<Problem> {
    let long = tree.sources.iter().filter(|source| source.lines > FILE_LINES);
    long.map(|source| Problem::new("lines", source.place(), format!("{} lines", source.lines))).collect()
}

/// Limits the files of each directory. A crate's root file, which is in the same directory as its modules,
/// does not count.
pub(crate) fn directories_are_small(tree: &Tree) -> Vec<Problem> {
    let mut files: BTreeMap<String, usize> = BTreeMap::new();
    for source in &tree.sources {
        let place = source.place();
        let (directory, name) = place.rsplit_once('/').unwrap();
        if !["lib.rs", "main.rs"].contains(&name) {
            *files.entry(directory.to_owned()).or_default() += 1;
        }
    }
    let full = files.into_iter().filter(|(_, count)| *count > DIRECTORY_FILES);
    full.map(|(directory, count)| Problem::new("siblings", directory, format!("{count} files"))).collect()
}

pub(crate) fn functions_are_short(tree: &Tree) -> Vec<Problem> {
    each_function(tree, |source, function| {
        let text = format!("{} has {} lines", function.name, function.lines);
        (function.lines > FUNCTION_LINES).then(|| Problem::new("function", source.place(), text))
    })
}

/// Refuses long tuples too, because a tuple would only hide the number of parameters.
pub(crate) fn functions_take_few_parameters(tree: &Tree) -> Vec<Problem> {
    each_function(tree, |source, function| {
        let text = format!("{} takes {} parameters", function.name, function.parameters);
        let many = function.parameters > PARAMETERS || function.tuple > TUPLE;
        let text = if function.tuple > TUPLE { format!("{} takes a tuple", function.name) } else { text };
        many.then(|| Problem::new("parameters", source.place(), text))
    })
}

pub(crate) fn test_names_are_short_sentences(tree: &Tree) -> Vec<Problem> {
    each_function(tree, |source, function| {
        let text = format!("{} has {} letters", function.name, function.name.len());
        (function.test && function.name.len() > TEST_NAME).then(|| Problem::new("name", source.place(), text))
    })
}

pub(crate) fn modules_have_their_file_beside_their_directory(tree: &Tree) -> Vec<Problem> {
    let inner = tree.sources.iter().filter(|source| source.path.ends_with("/mod.rs"));
    inner.map(|source| Problem::new("mod", source.place(), "should stand beside its directory")).collect()
}

struct Function {
    name: String,
    lines: usize,
    /// Number of parameters, without the receiver (`self`).
    parameters: usize,
    /// Number of members of the largest tuple among the parameters.
    tuple: usize,
    test: bool,
}

struct Functions(Vec<Function>);

fn each_function(tree: &Tree, judge: impl Fn(&Source, &Function) -> Option<Problem>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in &tree.sources {
        let mut functions = Functions(Vec::new());
        functions.visit_file(&source.syntax);
        problems.extend(functions.0.iter().filter_map(|function| judge(source, function)));
    }
    problems
}

impl Functions {
    fn add(&mut self, signature: &Signature, block: Option<&Block>, attributes: &[syn::Attribute]) {
        let start = signature.fn_token.span().start().line;
        let end = block.map_or(start, |block| block.span().end().line);
        let parameters = || {
            signature.inputs.iter().filter_map(|input| match input {
                FnArg::Typed(parameter) => Some(&*parameter.ty),
                FnArg::Receiver(_) => None,
            })
        };
        self.0.push(Function {
            name: signature.ident.to_string(),
            lines: end + 1 - start,
            parameters: parameters().count(),
            tuple: parameters().map(members).max().unwrap_or(0),
            test: has(attributes, "test"),
        });
    }
}

fn members(parameter: &Type) -> usize {
    match parameter {
        Type::Tuple(tuple) => tuple.elems.len(),
        Type::Reference(reference) => members(&reference.elem),
        _ => 0,
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, Some(&function.block), &function.attrs);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, Some(&function.block), &function.attrs);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        self.add(&function.sig, function.default.as_ref(), &function.attrs);
        visit::visit_trait_item_fn(self, function);
    }
}
