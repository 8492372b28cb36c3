//! Checks which other layers each layer uses, and which libraries each layer names.

use crate::{
    Problem,
    tree::{Source, Tree},
};

/// A library that only some layers may name.
struct Fence {
    library: &'static str,
    /// Directories (with a slash) or files, at any depth below `src/`, that may name the library.
    layers: &'static [&'static str],
    exempt: &'static [&'static str],
}

/// The gateway may name `tonic` and the contract anywhere, because turning HTTP into gRPC is its task.
const FENCES: &[Fence] = &[
    Fence { library: "sqlx", layers: &["store/", "store.rs"], exempt: &[] },
    Fence {
        library: "tonic",
        layers: &["grpc/", "grpc.rs", "client/", "client.rs", "service.rs"],
        exempt: &["gateway"],
    },
    Fence {
        library: "steward_proto",
        layers: &["grpc/", "grpc.rs", "client/", "client.rs", "service.rs"],
        exempt: &["gateway"],
    },
    Fence { library: "redis", layers: &["store/", "store.rs"], exempt: &["gateway"] },
];

/// Libraries that do I/O, log or define wire formats; `domain` may name none of them.
const IMPURE: &[&str] =
    &["axum", "bollard", "hyper", "redis", "reqwest", "sqlx", "steward_proto", "tokio", "tonic", "tracing"];

/// For each layer, the layers that it may not use. Calls are meant to go grpc → app → {domain, store, edges},
/// and worker → app; edges are the layers that talk to other systems, such as `client`.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("domain", &["app", "client", "config", "grpc", "service", "store", "worker"]),
    ("store", &["app", "client", "config", "grpc", "service", "worker"]),
    ("client", &["app", "config", "grpc", "service", "store", "worker"]),
    ("app", &["config", "grpc", "service", "worker"]),
    ("worker", &["grpc", "service", "store"]),
    ("grpc", &["config", "service", "store", "worker"]),
    ("config", &["backend", "client", "engine", "grpc", "journal", "model", "service", "store", "worker"]),
    ("backend", &["config", "grpc", "service", "worker"]),
    ("engine", &["app", "config", "grpc", "service", "store", "worker"]),
    ("journal", &["app", "config", "grpc", "service", "worker"]),
    ("model", &["app", "config", "grpc", "service", "store", "worker"]),
];

/// Returns the sources of services with layers. The gateway has no such layers.
fn layered(tree: &Tree) -> impl Iterator<Item = &Source> {
    tree.services().filter(|source| source.package != "gateway")
}

fn allows(layer: &str, source: &Source) -> bool {
    let path = source.path.trim_start_matches("src/");
    match layer.strip_suffix('/') {
        Some(directory) => path.split('/').rev().skip(1).any(|part| part == directory),
        None => path == layer || path.ends_with(&format!("/{layer}")),
    }
}

pub(crate) fn libraries_stay_in_their_layer(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in tree.services() {
        for fence in FENCES.iter().filter(|fence| !fence.exempt.contains(&source.package.as_str())) {
            if source.names.crates.contains(fence.library)
                && !fence.layers.iter().any(|layer| allows(layer, source))
            {
                problems.push(Problem::new("library", source.place(), format!("names {}", fence.library)));
            }
        }
    }
    problems
}

pub(crate) fn docker_is_spoken_in_one_file(tree: &Tree) -> Vec<Problem> {
    let speakers = tree.services().filter(|source| source.names.crates.contains("bollard"));
    speakers
        .filter(|source| source.place() != "sandbox-svc/src/engine/docker.rs")
        .map(|source| Problem::new("docker", source.place(), "names bollard"))
        .collect()
}

pub(crate) fn the_domain_is_pure(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in tree.services().filter(|source| source.layer() == "domain") {
        for library in IMPURE.iter().filter(|library| source.names.crates.contains(**library)) {
            problems.push(Problem::new("pure", source.place(), format!("names {library}")));
        }
    }
    problems
}

pub(crate) fn no_layer_reaches_up(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in layered(tree) {
        let layer = source.layer();
        let Some((_, above)) = FORBIDDEN.iter().find(|(name, _)| *name == layer) else { continue };
        for module in above.iter().filter(|module| source.names.uses(module)) {
            problems.push(Problem::new("layer", source.place(), format!("{layer} uses crate::{module}")));
        }
    }
    problems
}

/// Reports layers that export types of the store, because in another layer such types would look like domain
/// types.
pub(crate) fn only_the_store_exports_its_types(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in layered(tree).filter(|source| !["", "store"].contains(&source.layer().as_str())) {
        for (name, path) in &source.names.exports {
            if path.first().is_some_and(|first| first == "store") {
                problems.push(Problem::new(
                    "export",
                    source.place(),
                    format!("exports {name} of crate::store"),
                ));
            }
        }
    }
    problems
}
