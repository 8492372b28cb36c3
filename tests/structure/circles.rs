//! Finds modules of one crate that use each other in a circle, as `a` uses `b` and `b` uses `a`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Problem,
    tree::{Source, Tree},
};

type Module = Vec<String>;

/// Uses between the children of one module: from one child to another, with the file in which the use is.
type Arrows = BTreeMap<(String, String), String>;

/// Reports circles among the children of each module. A child contains all of its submodules, and uses
/// another child if one of its files uses one of the other's. Submodules of the same child may use each
/// other.
pub(crate) fn modules_form_no_circle(tree: &Tree) -> Vec<Problem> {
    let packages: BTreeSet<&str> = tree.built().map(|source| source.package.as_str()).collect();
    let mut problems = Vec::new();
    for package in packages {
        let files: BTreeMap<Module, &Source> = tree
            .built()
            .filter(|source| source.package == package && source.path != "src/main.rs")
            .map(|source| (source.module(), source))
            .collect();
        for (parent, arrows) in arrows(&files) {
            let place = [&[package.to_owned(), "src".to_owned()][..], &parent].concat().join("/");
            for circle in circles(&arrows) {
                problems.push(Problem::new("circle", &place, circle));
            }
        }
    }
    problems
}

fn arrows(files: &BTreeMap<Module, &Source>) -> BTreeMap<Module, Arrows> {
    let mut found: BTreeMap<Module, Arrows> = BTreeMap::new();
    for (from, source) in files {
        for path in &source.names.own {
            let target = resolve(files, path, 8);
            let shared = from.iter().zip(&target).take_while(|(left, right)| left == right).count();
            if shared < from.len() && shared < target.len() {
                let arrow = (from[shared].clone(), target[shared].clone());
                found.entry(from[..shared].to_vec()).or_default().insert(arrow, source.path.clone());
            }
        }
    }
    found
}

/// Finds the module that defines `path`. If a module on the path re-exports the next name, continues at the
/// path that it exports.
fn resolve(files: &BTreeMap<Module, &Source>, path: &[String], hops: usize) -> Module {
    let depth = (0..=path.len()).rev().find(|depth| files.contains_key(&path[..*depth])).unwrap_or(0);
    let module = &path[..depth];
    let exported =
        files.get(module).zip(path.get(depth)).and_then(|(source, name)| source.names.exports.get(name));
    match exported {
        Some(target) if hops > 0 && target != path => {
            resolve(files, &[target.as_slice(), &path[depth + 1..]].concat(), hops - 1)
        }
        Some(_) | None => module.to_vec(),
    }
}

/// Returns the circles among `arrows`, each once, as text.
fn circles(arrows: &Arrows) -> Vec<String> {
    let mut reach: BTreeSet<(&str, &str)> =
        arrows.keys().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    loop {
        let longer: Vec<(&str, &str)> = reach
            .iter()
            .flat_map(|(from, middle)| {
                reach.iter().filter(move |(start, _)| start == middle).map(move |(_, to)| (*from, *to))
            })
            .filter(|pair| !reach.contains(pair))
            .collect();
        if longer.is_empty() {
            break;
        }
        reach.extend(longer);
    }
    let mut found: BTreeSet<Vec<&str>> = BTreeSet::new();
    for (start, _) in reach.iter().filter(|(from, to)| from == to) {
        let together = |to: &&str| reach.contains(&(*start, *to)) && reach.contains(&(*to, *start));
        found.insert(
            reach
                .iter()
                .map(|(from, _)| *from)
                .filter(together)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        );
    }
    let inside = |circle: &[&str], from: &str, to: &str| circle.contains(&from) && circle.contains(&to);
    found
        .into_iter()
        .map(|circle| {
            let within = arrows.iter().filter(|((from, to), _)| inside(&circle, from, to));
            let list: Vec<String> =
                within.map(|((from, to), file)| format!("{from} → {to} in {file}")).collect();
            list.join(", ")
        })
        .collect()
}
