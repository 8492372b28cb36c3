//! Checks which crates of the workspace each crate depends on.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

use crate::{SERVICES, tree::root};

/// Returns the crates of the workspace that a package depends on, except those that only its tests use.
fn internal(package: &Package, members: &BTreeSet<String>) -> BTreeSet<String> {
    let built = |kind: DependencyKind| kind != DependencyKind::Development;
    let dependencies = package.dependencies.iter().filter(|dependency| built(dependency.kind));
    dependencies.map(|dependency| dependency.name.clone()).filter(|name| members.contains(name)).collect()
}

#[test]
fn services_depend_on_the_contract_and_svc_core_only() {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap();
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
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
