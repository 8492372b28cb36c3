//! What a source file names: crates, and modules of its own crate. Code under `#[cfg(test)]` does not count.

use std::collections::BTreeSet;

use syn::{
    Attribute, Item, ItemUse, Path, UseTree,
    visit::{self, Visit},
};

/// What one file names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// First segments of paths: `sqlx` of `sqlx::query!`, and the original names behind `use … as …`.
    pub(crate) crates: BTreeSet<String>,
    /// Top modules of the own crate: `app` of `crate::app::turns`.
    pub(crate) modules: BTreeSet<String>,
    /// Names that a `use` binds to something inside a crate, which hide a crate of that name:
    /// `redis` of `use svc_core::data::redis`.
    bound: BTreeSet<String>,
}

/// What `source` names.
pub(crate) fn of(source: &str) -> Names {
    let mut names = Names::default();
    names.visit_file(&syn::parse_file(source).unwrap());
    names.crates.retain(|name| !names.bound.contains(name));
    names
}

impl Names {
    fn note(&mut self, segments: &[String]) {
        match segments {
            [first, second, ..] if first == "crate" => {
                self.modules.insert(second.clone());
            }
            [first, _, ..] => {
                self.crates.insert(first.clone());
            }
            _ => {}
        }
    }

    fn walk(&mut self, prefix: &[String], tree: &UseTree) {
        let grown = |name: String| [prefix, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.walk(&grown(path.ident.to_string()), &path.tree),
            UseTree::Name(name) => {
                self.bind(prefix, &name.ident.to_string());
                self.used(grown(name.ident.to_string()));
            }
            UseTree::Rename(rename) => {
                self.bind(prefix, &rename.rename.to_string());
                self.used(grown(rename.ident.to_string()));
            }
            UseTree::Glob(_) => self.used(grown("*".to_owned())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.walk(prefix, tree)),
        }
    }

    /// What `use` brings into the file under `name`, if it is not the crate of that name itself.
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

    /// In a `use`, a lone name is a crate too: `use tonic;`.
    fn used(&mut self, path: Vec<String>) {
        match path.as_slice() {
            [name] => {
                self.crates.insert(name.clone());
            }
            path => self.note(path),
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_test_only) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.walk(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&segments);
        visit::visit_path(self, path);
    }

    /// Derives and attributes name crates too: `#[derive(sqlx::Type)]`, `#[sqlx(type_name = "…")]`.
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

fn is_test_only(attribute: &Attribute) -> bool {
    let mut test = attribute.path().is_ident("test");
    if attribute.path().is_ident("cfg") {
        // `test` alone, or a feature that only tests turn on.
        let condition = quote::quote!(#attribute).to_string();
        test = condition.contains("(test)") || condition.contains("test-util");
    }
    test
}

fn attributes(item: &Item) -> &[Attribute] {
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

#[test]
fn names_are_found_in_uses_paths_macros_and_derives() {
    let names = of(r#"
        use tonic as wire;
        use sqlx::{PgConnection as Connection, types::{Json}};
        #[derive(Debug, bollard::Model)]
        struct S;
        fn f() -> redis::Client { reqwest::get!(1); crate::store::turns::find() }
    "#);
    for library in ["tonic", "sqlx", "bollard", "redis", "reqwest"] {
        assert!(names.crates.contains(library), "{library} is missing from {:?}", names.crates);
    }
    assert_eq!(names.modules, BTreeSet::from(["store".to_owned()]));
}

#[test]
fn a_module_may_be_called_as_a_crate_is() {
    let names = of("use svc_core::{data::{redis::{self, Redis}, pg}}; fn f() -> redis::Error { pg::get() }");
    assert_eq!(names.crates, BTreeSet::from(["svc_core".to_owned()]));
    let names =
        of("use redis::{self, Client}; use other::thing as sqlx; fn f() -> redis::Error { sqlx::get() }");
    assert_eq!(names.crates, BTreeSet::from(["other".to_owned(), "redis".to_owned()]));
}

#[test]
fn comments_strings_and_test_code_name_nothing() {
    let names = of(r#"
        //! sqlx::query of tonic::Status
        const TEXT: &str = "bollard::Docker";
        #[cfg(test)]
        mod tests { use redis::Client; }
    "#);
    assert!(["sqlx", "tonic", "bollard", "redis"].iter().all(|library| !names.crates.contains(*library)));
}
