//! The shape of the repository, checked: who may depend on whom, and which layer may name which library.
//!
//! Crates come from cargo's metadata, layers from the paths of the files, and what a file names from its
//! parsed source, so neither a comment nor a string counts, and an alias hides nothing.

#![expect(clippy::unwrap_used, reason = "what cannot be read fails the test")]

mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// The services; each has the same skeleton.
const SERVICES: &[&str] = &["chat-svc", "gateway", "purge-svc", "registry-svc", "sandbox-svc"];

/// Libraries that only some layers may name, and the layers that may, as the start of a path below `src/`.
/// The gateway is a transcoder: the wire is its subject, so `tonic` is free there.
const FENCED: &[Fence] = &[
    Fence { library: "sqlx", layers: &["store/", "store.rs"], exempt: &[] },
    Fence {
        library: "tonic",
        layers: &["grpc/", "grpc.rs", "client/", "client.rs", "service.rs"],
        exempt: &["gateway"],
    },
    Fence { library: "redis", layers: &["store/", "store.rs"], exempt: &["gateway"] },
];

/// Libraries that touch the world; `domain` names none of them.
const IMPURE: &[&str] =
    &["axum", "bollard", "hyper", "redis", "reqwest", "sqlx", "steward_proto", "tokio", "tonic", "tracing"];

/// What a layer may not reach for: arrows go grpc → app → {domain, store, edges}, worker → app.
const UPWARD: &[(&str, &[&str])] = &[
    ("domain", &["app", "grpc", "service", "store", "worker"]),
    ("store", &["app", "grpc", "service", "worker"]),
    ("app", &["grpc", "service", "worker"]),
];

struct Fence {
    library: &'static str,
    layers: &'static [&'static str],
    exempt: &'static [&'static str],
}

/// One source file of a service.
struct Source {
    service: String,
    /// Below `src/`, as `store/turns.rs`.
    path: String,
    names: names::Names,
}

fn workspace() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Members of the workspace that a package depends on, leaving out what only its own tests use.
fn internal(package: &Package, members: &BTreeSet<String>) -> BTreeSet<String> {
    let built = |kind: DependencyKind| kind != DependencyKind::Development;
    let dependencies = package.dependencies.iter().filter(|dependency| built(dependency.kind));
    dependencies.map(|dependency| dependency.name.clone()).filter(|name| members.contains(name)).collect()
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for service in SERVICES {
        let src = root().join(service).join("src");
        for file in files(&src) {
            let path = file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            // A file of tests may set up what it likes.
            if path.ends_with("tests.rs") || path.contains("tests/") {
                continue;
            }
            let names = names::of(&fs::read_to_string(&file).unwrap());
            found.push(Source { service: (*service).to_owned(), path, names });
        }
    }
    found
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The layer a file belongs to: its first directory, or its own name.
fn layer(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn services_depend_on_the_contract_and_svc_core_only() {
    let metadata = workspace();
    let packages = metadata.workspace_packages();
    let members: BTreeSet<String> = packages.iter().map(|package| package.name.to_string()).collect();
    let allowed: BTreeMap<&str, &[&str]> = SERVICES
        .iter()
        .map(|service| (*service, &["steward-proto", "svc-core"][..]))
        .chain([
            ("steward-proto", &[][..]),
            ("svc-core", &["steward-proto"][..]),
            ("steward-guest", &["steward-proto"][..]),
        ])
        .collect();
    let mut problems = Vec::new();
    for package in packages {
        let Some(allowed) = allowed.get(package.name.as_str()) else { continue };
        for dependency in internal(package, &members) {
            if !allowed.contains(&dependency.as_str()) {
                problems.push(format!("{} may not depend on {dependency}", package.name));
            }
        }
    }
    report(problems);
}

#[test]
fn a_library_of_the_world_is_named_only_in_its_layer() {
    let mut problems = Vec::new();
    for source in sources() {
        for fence in FENCED {
            let inside = fence.layers.iter().any(|layer| match layer.strip_suffix('/') {
                Some(directory) => source.path.split('/').rev().skip(1).any(|part| part == directory),
                None => source.path == *layer || source.path.ends_with(&format!("/{layer}")),
            });
            if !inside
                && !fence.exempt.contains(&source.service.as_str())
                && source.names.crates.contains(fence.library)
            {
                problems.push(format!("{}/src/{} names {}", source.service, source.path, fence.library));
            }
        }
    }
    report(problems);
}

#[test]
fn docker_is_spoken_in_one_file() {
    let speakers: Vec<String> = sources()
        .iter()
        .filter(|source| source.names.crates.contains("bollard"))
        .map(|source| format!("{}/src/{}", source.service, source.path))
        .collect();
    assert_eq!(speakers, ["sandbox-svc/src/engine/docker.rs"]);
}

#[test]
fn the_domain_is_pure() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| layer(&source.path) == "domain") {
        for library in IMPURE.iter().filter(|library| source.names.crates.contains(**library)) {
            problems.push(format!("{}/src/{} names {library}", source.service, source.path));
        }
    }
    report(problems);
}

#[test]
fn no_layer_reaches_for_the_one_above() {
    let mut problems = Vec::new();
    for source in sources() {
        let Some((_, above)) = UPWARD.iter().find(|(name, _)| *name == layer(&source.path)) else { continue };
        for module in above.iter().filter(|module| source.names.modules.contains(**module)) {
            problems.push(format!("{}/src/{} reaches for crate::{module}", source.service, source.path));
        }
    }
    report(problems);
}

#[test]
fn modules_have_their_file_beside_their_directory() {
    let mut problems = Vec::new();
    for member in workspace().workspace_packages() {
        let src = member.manifest_path.parent().unwrap().join("src");
        for file in files(src.as_std_path()) {
            if file.file_name().is_some_and(|name| name == "mod.rs") {
                problems.push(format!(
                    "{} should be {}.rs",
                    file.display(),
                    file.parent().unwrap().display()
                ));
            }
        }
    }
    report(problems);
}
