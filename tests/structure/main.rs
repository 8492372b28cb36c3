//! Checks the structure of the repository: the uses between crates, layers and files, their sizes, and the
//! exports of each service.
//!
//! Dependencies between crates come from cargo's metadata, and layers from the paths of files. The names that
//! a file uses come from its parsed source: comments and strings do not count, and a name under an alias
//! does. Each rule is a function that returns the problems of a [`Tree`]; [`planted`] proves that each rule
//! finds a violation. `exceptions.txt` lists the places where a rule does not hold yet. An entry without a
//! problem fails, so the list only gets shorter.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read or parsed fails the test")]

mod arrows;
mod circles;
mod crates;
mod documents;
mod meters;
mod names;
mod planted;
mod roots;
mod sizes;
mod tree;

use std::collections::BTreeSet;

use tree::{Tree, root};

/// The services; each has the same skeleton.
const SERVICES: &[&str] = &["chat-svc", "gateway", "purge-svc", "registry-svc", "sandbox-svc"];

/// Places where a rule does not hold yet: one line for each, with the rule and the path.
const EXCEPTIONS: &str = include_str!("exceptions.txt");

/// One violation of a rule.
#[derive(Debug)]
struct Problem {
    rule: &'static str,
    /// Path of the file, directory or crate, from the root of the repository.
    place: String,
    text: String,
}

impl Problem {
    fn new(rule: &'static str, place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { rule, place: place.into(), text: text.into() }
    }
}

type Rule = fn(&Tree) -> Vec<Problem>;

const RULES: &[Rule] = &[
    arrows::libraries_stay_in_their_layer,
    arrows::docker_is_spoken_in_one_file,
    arrows::the_domain_is_pure,
    arrows::no_layer_reaches_up,
    arrows::only_the_store_exports_its_types,
    circles::modules_form_no_circle,
    meters::metrics_have_their_file_and_meter,
    roots::services_export_what_their_users_need,
    sizes::files_are_short,
    sizes::directories_are_small,
    sizes::functions_are_short,
    sizes::functions_take_few_parameters,
    sizes::test_names_are_short_sentences,
    sizes::modules_have_their_file_beside_their_directory,
];

#[test]
fn the_tree_keeps_its_rules() {
    let tree = Tree::read(&root());
    let listed: BTreeSet<(&str, &str)> = EXCEPTIONS.lines().filter_map(|line| line.split_once(' ')).collect();
    let problems: Vec<Problem> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    let places: BTreeSet<(&str, &str)> =
        problems.iter().map(|problem| (problem.rule, problem.place.as_str())).collect();
    let new = problems.iter().filter(|problem| !listed.contains(&(problem.rule, problem.place.as_str())));
    let mut complaints: Vec<String> =
        new.map(|problem| format!("{} {}: {}", problem.rule, problem.place, problem.text)).collect();
    let mended = listed.difference(&places);
    complaints.extend(mended.map(|(rule, place)| {
        format!("{rule} {place}: holds now, delete it from tests/structure/exceptions.txt")
    }));
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
