//! Checks that the paths in the documents exist.

use std::fs;

use crate::{SERVICES, tree::root};

const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];

/// Finds the paths in a document. A path stands between backticks, has a slash or a file's ending, and has no
/// space or placeholder.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|quoted| {
        let known = [".rs", ".toml", ".sql", ".proto", ".md", ".lua"];
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
        // A path with a leading slash is a route of the API; one with a leading dot is a directory that a run
        // creates. Neither is checked.
        quoted.chars().all(plain)
            && !quoted.starts_with(['/', '.'])
            && (quoted.contains('/') || known.iter().any(|ending| quoted.ends_with(ending)))
    })
}

#[test]
fn paths_in_the_documents_exist() {
    let root = root();
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).unwrap();
        for path in paths(&text) {
            // A document may name a file as it is called in every service, such as `grpc/convert.rs`.
            let of_a_service = || {
                SERVICES.iter().any(|service| {
                    root.join(service).join("src").join(path).exists()
                        || root.join(service).join(path).exists()
                })
            };
            // A file below `target/` is made by a build, so it is not in the repository.
            let built = path.starts_with("target/");
            if !built && !root.join(path).exists() && !of_a_service() {
                missing.push(format!("{document} names {path}, which does not exist"));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn only_paths_are_taken_for_paths() {
    let text = "`tests/e2e/main.rs`, `worker.rs`, `make test`, `/openapi.json`, `a::b`, `x/<id>`, `docs/`";
    assert_eq!(paths(text).collect::<Vec<_>>(), ["tests/e2e/main.rs", "worker.rs", "docs/"]);
}
