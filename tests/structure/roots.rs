//! Checks the exports at the root of each service.

use std::collections::BTreeSet;

use syn::{Item, UseTree};

use crate::{
    Problem, SERVICES, names,
    tree::{Tree, is_public},
};

/// The names that a program needs to run a service.
const ROOT: &[&str] = &["Config", "MIGRATOR", "NAME", "start"];

/// Services that differ: the names that they export in addition, those that they lack, and the reason.
const DIFFERENT: &[(&str, &[&str], &[&str], &str)] = &[
    ("gateway", &[], &["MIGRATOR"], "it has no database"),
    ("registry-svc", &["operator"], &[], "`steward token` issues the first token of a fresh plane"),
];

pub(crate) fn services_export_what_their_users_need(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in tree.sources.iter().filter(|source| source.path == "src/lib.rs") {
        let Some(service) = SERVICES.iter().find(|service| **service == source.package) else { continue };
        let mut expected: BTreeSet<String> = ROOT.iter().map(|name| (*name).to_owned()).collect();
        for (_, more, less, _reason) in DIFFERENT.iter().filter(|(name, ..)| name == service) {
            expected.extend(more.iter().map(|name| (*name).to_owned()));
            less.iter().for_each(|name| assert!(expected.remove(*name)));
        }
        let exported: BTreeSet<String> = source.syntax.items.iter().flat_map(exports).collect();
        let unexpected = exported.difference(&expected).map(|name| format!("exports {name}"));
        let missing = expected.difference(&exported).map(|name| format!("does not export {name}"));
        problems.extend(unexpected.chain(missing).map(|text| Problem::new("root", *service, text)));
    }
    problems
}

/// Returns the names that an item exports, except if only tests compile it.
fn exports(item: &Item) -> Vec<String> {
    if names::attributes(item).iter().any(names::is_test_only) {
        return Vec::new();
    }
    let (visibility, name) = match item {
        Item::Const(item) => (&item.vis, item.ident.to_string()),
        Item::Enum(item) => (&item.vis, item.ident.to_string()),
        Item::Fn(item) => (&item.vis, item.sig.ident.to_string()),
        Item::Mod(item) => (&item.vis, item.ident.to_string()),
        Item::Static(item) => (&item.vis, item.ident.to_string()),
        Item::Struct(item) => (&item.vis, item.ident.to_string()),
        Item::Trait(item) => (&item.vis, item.ident.to_string()),
        Item::Type(item) => (&item.vis, item.ident.to_string()),
        Item::Use(item) if is_public(&item.vis) => return leaves(&item.tree),
        _ => return Vec::new(),
    };
    if is_public(visibility) { vec![name] } else { Vec::new() }
}

fn leaves(tree: &UseTree) -> Vec<String> {
    match tree {
        UseTree::Path(path) => leaves(&path.tree),
        UseTree::Name(name) => vec![name.ident.to_string()],
        UseTree::Rename(rename) => vec![rename.rename.to_string()],
        UseTree::Glob(_) => vec!["*".to_owned()],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}
