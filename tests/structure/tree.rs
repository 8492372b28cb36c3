//! Reads and parses the Rust sources of the repository.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use syn::{Item, Meta, Visibility};

use crate::names::{self, Names};

/// All Rust files of the repository, or the files of a planted snippet.
pub(crate) struct Tree {
    pub(crate) sources: Vec<Source>,
}

/// A parsed file with the names it uses.
pub(crate) struct Source {
    /// Directory of the crate from the root of the repository: `chat-svc`, `cli/stack`.
    pub(crate) package: String,
    /// Path below the crate's directory: `src/store/turns.rs`.
    pub(crate) path: String,
    pub(crate) lines: usize,
    pub(crate) syntax: syn::File,
    pub(crate) names: Names,
    /// Whether only tests compile the file.
    pub(crate) test: bool,
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

impl Tree {
    /// Reads every crate below `root`. A crate is a directory with a `Cargo.toml`.
    pub(crate) fn read(root: &Path) -> Self {
        let mut texts = Vec::new();
        read_directory(root, root, &mut texts);
        let packages: Vec<String> = texts
            .iter()
            .filter_map(|(path, _)| path.strip_suffix("/Cargo.toml").map(str::to_owned))
            .collect();
        let files = texts.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(path, text)| {
            let inside = |package: &&String| path.starts_with(&format!("{package}/"));
            let package = packages.iter().filter(inside).max_by_key(|package| package.len()).unwrap();
            (package.as_str(), path[package.len() + 1..].to_owned(), text.as_str())
        });
        Self::parse(files)
    }

    /// Parses files given as (package, path below the package, text).
    pub(crate) fn parse<'a>(files: impl Iterator<Item = (&'a str, String, &'a str)>) -> Self {
        let mut sources: Vec<Source> = files
            .map(|(package, path, text)| {
                let syntax = syn::parse_file(text).unwrap();
                Source {
                    names: names::of(&syntax, &module(&path)),
                    package: package.to_owned(),
                    lines: text.lines().count(),
                    test: !path.starts_with("src/") || path.ends_with("tests.rs") || path.contains("/tests/"),
                    syntax,
                    path,
                }
            })
            .collect();
        let gated: BTreeSet<(String, Vec<String>)> = sources.iter().flat_map(Source::gated_modules).collect();
        for source in &mut sources {
            let module = source.module();
            let below = |(package, gate): &(String, Vec<String>)| {
                *package == source.package && module.starts_with(gate)
            };
            source.test |= gated.iter().any(below);
        }
        Self { sources }
    }

    /// Returns the files that are compiled into a service, without its tests.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Source> {
        self.built().filter(|source| crate::SERVICES.contains(&source.package.as_str()))
    }

    /// Returns the files that are compiled into a crate, without its tests.
    pub(crate) fn built(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| !source.test)
    }
}

impl Source {
    /// Returns the path from the root of the repository.
    pub(crate) fn place(&self) -> String {
        format!("{}/{}", self.package, self.path)
    }

    /// Returns the path of the module inside its crate; empty for a crate's root.
    pub(crate) fn module(&self) -> Vec<String> {
        module(&self.path)
    }

    /// Returns the first directory or file below `src`, such as `store` for `src/store/turns.rs`.
    pub(crate) fn layer(&self) -> String {
        self.module().first().cloned().unwrap_or_default()
    }

    /// Returns the modules that this file declares for tests only, each with its crate.
    fn gated_modules(&self) -> Vec<(String, Vec<String>)> {
        let gated = self.syntax.items.iter().filter_map(|item| match item {
            Item::Mod(item) if item.attrs.iter().any(names::is_test_only) => Some(item.ident.to_string()),
            _ => None,
        });
        gated.map(|name| (self.package.clone(), [self.module(), vec![name]].concat())).collect()
    }
}

/// Returns the module path of a file, from its path below the crate's directory.
fn module(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    match inner {
        "lib" | "main" => Vec::new(),
        inner => inner.split('/').map(str::to_owned).collect(),
    }
}

fn read_directory(root: &Path, directory: &Path, texts: &mut Vec<(String, String)>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            // Hidden directories and build output contain no sources of the repository.
            if !name.starts_with('.') && name != "target" {
                read_directory(root, &path, texts);
            }
        } else if directory != root && (name.ends_with(".rs") || name == "Cargo.toml") {
            let inner = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            texts.push((inner, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Returns whether an item is visible outside its crate.
pub(crate) fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Returns whether a list of attributes contains the attribute `name`, alone or as the last segment of a
/// path.
pub(crate) fn has(attributes: &[syn::Attribute], name: &str) -> bool {
    attributes.iter().any(|attribute| {
        let path = match &attribute.meta {
            Meta::Path(path) => path,
            Meta::List(list) => &list.path,
            Meta::NameValue(pair) => &pair.path,
        };
        path.segments.last().is_some_and(|segment| segment.ident == name)
    })
}
