//! Tests the structure rules: each entry of [`PLANTED`] must be reported for exactly one rule, and [`KEPT`]
//! for none.

use crate::{RULES, SERVICES, tree::Tree};

/// One file: path from the root of the repository, and its text.
type File<'a> = (&'a str, &'a str);

/// A violation: the rule, the place at which it must be reported, and the files that contain it.
const PLANTED: &[(&str, &str, &[File<'_>])] = &[
    (
        "library",
        "chat-svc/src/app/a.rs",
        &[("chat-svc/src/app/a.rs", "fn f() { sqlx::query!(\"SELECT 1\"); }")],
    ),
    ("library", "chat-svc/src/app/a.rs", &[("chat-svc/src/app/a.rs", "use tonic as wire;")]),
    (
        "library",
        "purge-svc/src/app/a.rs",
        &[("purge-svc/src/app/a.rs", "use steward_proto::chat::v1::Turn;")],
    ),
    ("library", "purge-svc/src/worker/a.rs", &[("purge-svc/src/worker/a.rs", "use redis::Client;")]),
    ("docker", "chat-svc/src/client/a.rs", &[("chat-svc/src/client/a.rs", "use bollard::Docker;")]),
    ("pure", "chat-svc/src/domain/a.rs", &[("chat-svc/src/domain/a.rs", "fn f() { tracing::info!(\"x\") }")]),
    ("layer", "chat-svc/src/worker/a.rs", &[("chat-svc/src/worker/a.rs", "use crate::store::turns;")]),
    ("layer", "chat-svc/src/worker/a.rs", &[("chat-svc/src/worker/a.rs", "use super::super::store::turns;")]),
    ("layer", "chat-svc/src/grpc/a.rs", &[("chat-svc/src/grpc/a.rs", "fn f() { x!(a, crate::store::b()) }")]),
    ("layer", "chat-svc/src/app/a.rs", &[("chat-svc/src/app/a.rs", "use crate::{config::Pool, domain};")]),
    ("layer", "chat-svc/src/app.rs", &[("chat-svc/src/app.rs", "use crate::worker::Claimer;")]),
    ("layer", "chat-svc/src/store/a.rs", &[("chat-svc/src/store/a.rs", "fn f(x: crate::app::Turns) {}")]),
    ("layer", "chat-svc/src/domain/a.rs", &[("chat-svc/src/domain/a.rs", "use crate::store::Row;")]),
    ("layer", "chat-svc/src/config.rs", &[("chat-svc/src/config.rs", "use crate::worker::Claiming;")]),
    (
        "export",
        "chat-svc/src/app/a.rs",
        &[("chat-svc/src/app/a.rs", "pub(crate) use crate::store::turns::Turn;")],
    ),
    (
        "circle",
        "svc-core/src/data",
        &[
            ("svc-core/src/data/a.rs", "use super::b::B;"),
            ("svc-core/src/data/b.rs", "use crate::data::a::A;"),
        ],
    ),
    (
        "circle",
        "gateway/src",
        &[
            ("gateway/src/layer/a.rs", "use crate::route::b::B;"),
            ("gateway/src/route/b.rs", "fn f() { call!(crate::table::c::C) }"),
            ("gateway/src/table/c.rs", "use crate::layer::d::D;"),
            ("gateway/src/layer/d.rs", ""),
        ],
    ),
    (
        "circle",
        "guest/src",
        &[
            ("guest/src/lib.rs", "pub use a::A;"),
            ("guest/src/a.rs", "use crate::b::B;"),
            ("guest/src/b.rs", "use crate::A;"),
        ],
    ),
    (
        "root",
        "chat-svc",
        &[
            (
                "chat-svc/src/lib.rs",
                "pub use self::x::{Config, MIGRATOR, NAME}; pub fn start() {} pub mod app;",
            ),
            ("chat-svc/src/metrics.rs", ""),
        ],
    ),
    (
        "root",
        "chat-svc",
        &[
            ("chat-svc/src/lib.rs", "pub use self::x::{Config, MIGRATOR, start};"),
            ("chat-svc/src/metrics.rs", ""),
        ],
    ),
    ("parameters", "cli/src/a.rs", &[("cli/src/a.rs", "fn f(a: A, b: A, c: A, d: A, e: A, f: A, g: A) {}")]),
    ("parameters", "cli/src/a.rs", &[("cli/src/a.rs", "impl X { fn f(&self, (a, b, c): (A, A, A)) {} }")]),
    (
        "name",
        "cli/tests/it/a.rs",
        &[(
            "cli/tests/it/a.rs",
            "#[tokio::test] async fn this_sentence_says_far_more_than_one_reader_takes_in_at_a_glance() {}",
        )],
    ),
    ("metrics", "chat-svc", &[("chat-svc/src/lib.rs", "pub use self::x::{Config, MIGRATOR, NAME, start};")]),
    (
        "metrics",
        "chat-svc/src/app/a.rs",
        &[("chat-svc/src/app/a.rs", "fn f() { global::meter(\"steward\"); }")],
    ),
    (
        "metrics",
        "chat-svc/src/metrics.rs",
        &[("chat-svc/src/metrics.rs", "fn f() { global::meter(\"chat\"); }")],
    ),
    ("mod", "cli/src/a/mod.rs", &[("cli/src/a/mod.rs", "")]),
];

/// Files that break no rule, although each line resembles one that does.
const KEPT: &[File<'_>] = &[
    (
        "chat-svc/src/lib.rs",
        "pub use self::x::{Config, MIGRATOR, NAME, start}; #[cfg(feature = \"test-util\")] pub mod t;",
    ),
    ("chat-svc/src/metrics.rs", "fn f() { global::meter(\"steward\"); }"),
    ("gateway/src/metrics.rs", ""),
    ("chat-svc/src/t.rs", "use crate::store::turns; use sqlx::PgPool;"),
    ("chat-svc/src/store/turns.rs", "use sqlx::PgConnection; use crate::domain::turn::Turn;"),
    ("chat-svc/src/worker/a.rs", "use crate::app::turns; // crate::store"),
    ("chat-svc/src/worker/b.rs", "use super::a::A; #[cfg(test)] mod tests { use crate::store::turns; }"),
    (
        "chat-svc/src/app/turns.rs",
        "use crate::store::turns; fn f(a: &(A, B), b: B, c: C, d: D, e: E, f: F) {}",
    ),
    ("chat-svc/src/app/turns/tests.rs", "use crate::config::Config;"),
    ("chat-svc/src/grpc/convert.rs", "use steward_proto::chat::v1 as wire; use tonic::Status;"),
    ("gateway/src/lib.rs", "pub use self::x::{Config, NAME, start};"),
    ("gateway/src/layer/a.rs", "use steward_proto::x::Y; use super::b::B;"),
    (
        "gateway/src/layer/b.rs",
        "use super::super::layer; pub fn long_names_are_allowed_where_no_test_is_meant_by_them_at_all() {}",
    ),
];

fn parse(files: &[File<'_>]) -> Tree {
    Tree::parse(files.iter().map(|(path, text)| {
        let (package, inner) = path.split_once('/').unwrap();
        (package, inner.to_owned(), *text)
    }))
}

fn found(tree: &Tree) -> Vec<(&'static str, String)> {
    RULES.iter().flat_map(|rule| rule(tree)).map(|problem| (problem.rule, problem.place)).collect()
}

#[test]
fn each_rule_finds_its_planted_violation() {
    for (rule, place, files) in PLANTED {
        assert_eq!(found(&parse(files)), [(*rule, (*place).to_owned())], "{files:?}");
    }
}

#[test]
fn sizes_over_the_limit_are_found() {
    let line = "\n";
    let body = |lines: usize| format!("fn f() {{{}}}", line.repeat(lines));
    let file = |text: &str| found(&parse(&[("cli/src/a.rs", text)]));
    assert_eq!(file(&line.repeat(450)), []);
    assert_eq!(file(&line.repeat(451)), [("lines", "cli/src/a.rs".to_owned())]);
    assert_eq!(file(&body(89)), []);
    assert_eq!(file(&body(90)), [("function", "cli/src/a.rs".to_owned())]);
    let names: Vec<String> = (0..15).map(|number| format!("cli/src/x/{number}.rs")).collect();
    let files: Vec<File<'_>> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(found(&parse(&files[..14])), []);
    assert_eq!(found(&parse(&files)), [("siblings", "cli/src/x".to_owned())]);
}

#[test]
fn a_tree_that_keeps_the_rules_has_no_problem() {
    assert_eq!(found(&parse(KEPT)), []);
}

/// Checks that a rule applies to every service: a rule that skipped one would report no problem of it.
#[test]
fn every_service_is_checked() {
    let services: Vec<String> = SERVICES.iter().map(|name| format!("{name}/src/app/a.rs")).collect();
    let files: Vec<File<'_>> = services.iter().map(|path| (path.as_str(), "use sqlx::PgPool;")).collect();
    assert_eq!(found(&parse(&files)).len(), SERVICES.len());
}
