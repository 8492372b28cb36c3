//! Finds the names that a source file uses: crates, and modules of its own crate. Ignores code under
//! `#[cfg(test)]`.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, Path, UseTree,
    visit::{self, Visit},
};

/// The names that one file uses.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// First segments of paths: `sqlx` of `sqlx::query!`, and the original names behind `use … as …`.
    pub(crate) crates: BTreeSet<String>,
    /// Paths into the own crate, from its root: `app::turns::create` of `crate::app::turns::create`.
    pub(crate) own: BTreeSet<Vec<String>>,
    /// Names that a `pub use` or `pub(crate) use` exports, with the path of each from the crate's root.
    pub(crate) exports: BTreeMap<String, Vec<String>>,
    /// Names that a `use` binds to an item inside a crate, as `use svc_core::data::redis` does with `redis`.
    /// In this file they do not mean the crate of the same name.
    bound: BTreeSet<String>,
    /// Module path of the code being visited.
    module: Vec<String>,
}

/// Collects the names that `file` uses; `module` is its path in its crate.
pub(crate) fn of(file: &syn::File, module: &[String]) -> Names {
    let mut names = Names { module: module.to_vec(), ..Names::default() };
    names.visit_file(file);
    names.crates.retain(|name| !names.bound.contains(name));
    names
}

impl Names {
    /// Returns whether the file uses the top module `name` of its crate.
    pub(crate) fn uses(&self, name: &str) -> bool {
        self.own.iter().any(|path| path.first().is_some_and(|first| first == name))
    }

    fn note(&mut self, segments: &[String]) {
        if let Some(path) = self.absolute(segments) {
            self.own.insert(path);
        } else if let [first, _, ..] = segments {
            self.crates.insert(first.clone());
        }
    }

    /// Returns the path from the crate's root, if `segments` begins with `crate`, `self` or `super`.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let mut base = match segments.first()?.as_str() {
            "crate" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self.module[..self.module.len().saturating_sub(1)].to_vec(),
            _ => return None,
        };
        for segment in &segments[1..] {
            match segment.as_str() {
                "super" => {
                    base.pop();
                }
                "self" | "*" => {}
                name => base.push(name.to_owned()),
            }
        }
        Some(base)
    }

    fn walk(&mut self, prefix: &[String], tree: &UseTree, exported: bool) {
        let grown = |name: String| [prefix, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.walk(&grown(path.ident.to_string()), &path.tree, exported),
            UseTree::Name(name) => {
                self.leaf(prefix, &name.ident.to_string(), &name.ident.to_string(), exported)
            }
            UseTree::Rename(name) => {
                self.leaf(prefix, &name.ident.to_string(), &name.rename.to_string(), exported);
            }
            UseTree::Glob(_) => self.used(grown("*".to_owned())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.walk(prefix, tree, exported)),
        }
    }

    fn leaf(&mut self, prefix: &[String], name: &str, bound: &str, exported: bool) {
        self.bind(prefix, bound);
        let path = [prefix, &[name.to_owned()]].concat();
        if exported {
            // A path without `crate`, `self` or `super` begins at a child module, or at another crate.
            let child = || [self.module.clone(), path.clone()].concat();
            let target = self.absolute(&path).unwrap_or_else(child);
            self.exports.insert(bound.to_owned(), target);
        }
        self.used(path);
    }

    /// Records the name that a `use` brings into the file, unless it is the crate of that name.
    fn bind(&mut self, prefix: &[String], name: &str) {
        match (prefix, name) {
            ([] | [_], "self") => {}
            ([.., module], "self") => {
                self.bound.insert(module.clone());
            }
            ([first, ..], name) if first != name => {
                self.bound.insert(name.to_owned());
            }
            _ => {}
        }
    }

    /// Records a path of a `use`. A path of one name is a crate: `use tonic;`.
    fn used(&mut self, path: Vec<String>) {
        match path.as_slice() {
            [name] => {
                self.crates.insert(name.clone());
            }
            path => self.note(path),
        }
    }

    /// Records the paths among the tokens of a macro call, which the parser does not parse.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.note(&path);
                        path.clear();
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.tokens(group.stream());
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => colons = 0,
            }
        }
        self.note(&path);
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_test_only) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let exported = !matches!(item.vis, syn::Visibility::Inherited);
        self.walk(&[], &item.tree, exported);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    /// Records the crates in derives and attributes: `#[derive(sqlx::Type)]`, `#[sqlx(type_name = "…")]`.
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Some(first) = attribute.path().segments.first() {
            self.crates.insert(first.ident.to_string());
        }
        if attribute.path().is_ident("derive") {
            let paths = syn::punctuated::Punctuated::<Path, syn::Token![,]>::parse_terminated;
            attribute.parse_args_with(paths).unwrap().iter().for_each(|path| self.visit_path(path));
        }
        visit::visit_attribute(self, attribute);
    }
}

/// Returns whether an attribute excludes its item from a build for production.
pub(crate) fn is_test_only(attribute: &Attribute) -> bool {
    let mut test = attribute.path().is_ident("test");
    if attribute.path().is_ident("cfg") {
        // The condition is `test`, or a feature that only tests enable.
        let condition = quote::quote!(#attribute).to_string();
        test =
            condition.contains("(test)") || condition.contains("test-util") || condition.contains("(test ,");
    }
    test
}

/// Returns the attributes of an item; none for kinds of item that are not listed.
pub(crate) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
fn parsed(source: &str) -> Names {
    of(&syn::parse_file(source).unwrap(), &["app".to_owned(), "turns".to_owned()])
}

#[test]
fn names_are_found_in_uses_paths_macros_and_derives() {
    let names = parsed(
        r#"
        use tonic as wire;
        use sqlx::{PgConnection as Connection, types::{Json}};
        #[derive(Debug, bollard::Model)]
        struct S;
        fn f() -> redis::Client { reqwest::get!(1); crate::store::turns::find() }
        fn g() { tokio::select! { x = super::run::next() => hyper::send(x, [crate::grpc::x]) } }
    "#,
    );
    for library in ["tonic", "sqlx", "bollard", "redis", "reqwest", "hyper"] {
        assert!(names.crates.contains(library), "{library} is missing from {:?}", names.crates);
    }
    let own: Vec<String> = names.own.iter().map(|path| path.join("::")).collect();
    assert_eq!(own, ["app::run::next", "grpc::x", "store::turns::find"]);
}

#[test]
fn a_module_may_be_called_as_a_crate_is() {
    let names =
        parsed("use svc_core::{data::{redis::{self, Redis}, pg}}; fn f() -> redis::Error { pg::get() }");
    assert_eq!(names.crates, BTreeSet::from(["svc_core".to_owned()]));
    let names =
        parsed("use redis::{self, Client}; use other::thing as sqlx; fn f() -> redis::Error { sqlx::get() }");
    assert_eq!(names.crates, BTreeSet::from(["other".to_owned(), "redis".to_owned()]));
}

#[test]
fn comments_strings_and_test_code_name_nothing() {
    let names = parsed(
        r#"
        //! No library: sqlx::query of tonic::Status
        const TEXT: &str = "bollard::Docker";
        #[cfg(test)]
        mod tests { use redis::Client; }
    "#,
    );
    assert!(["sqlx", "tonic", "bollard", "redis"].iter().all(|library| !names.crates.contains(*library)));
}
