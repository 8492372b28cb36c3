//! Checks that the metrics of a service are defined in its `src/metrics.rs`.

use syn::{
    Expr, ExprCall, ExprLit, Lit,
    visit::{self, Visit},
};

use crate::{
    Problem,
    tree::{Source, Tree},
};

/// Name of the meter that all services use.
const METER: &str = "steward";

/// Reports services without `src/metrics.rs`, and uses of a meter in another file or under another name.
pub(crate) fn metrics_have_their_file_and_meter(tree: &Tree) -> Vec<Problem> {
    let has = |package: &str, path: &str| {
        tree.sources.iter().any(|source| source.package == package && source.path == path)
    };
    let mut problems = Vec::new();
    for source in tree.services() {
        if source.path == "src/lib.rs" && !has(&source.package, "src/metrics.rs") {
            problems.push(Problem::new("metrics", source.package.as_str(), "has no src/metrics.rs"));
        }
        for meter in meters(source) {
            if meter != METER || source.path != "src/metrics.rs" {
                problems.push(Problem::new("metrics", source.place(), format!("uses the meter {meter}")));
            }
        }
    }
    problems
}

fn meters(source: &Source) -> Vec<String> {
    let mut calls = Meters(Vec::new());
    calls.visit_file(&source.syntax);
    calls.0
}

/// Names of the meters in calls of `meter("…")`.
struct Meters(Vec<String>);

impl<'ast> Visit<'ast> for Meters {
    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Expr::Path(path) = &*call.func
            && path.path.segments.last().is_some_and(|segment| segment.ident == "meter")
            && let Some(Expr::Lit(ExprLit { lit: Lit::Str(name), .. })) = call.args.first()
        {
            self.0.push(name.value());
        }
        visit::visit_expr_call(self, call);
    }
}
