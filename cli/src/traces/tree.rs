//! Renders a trace as an indented tree.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use super::Span;

/// Attributes shown after a span's name.
const SHOWN: &[&str] = &[
    "turn.id",
    "gen_ai.request.model",
    "gen_ai.tool.name",
    "http.response.status_code",
    "rpc.response.status_code",
];

/// Writes one line for each span: start time, duration, service, name. A span without a known parent is shown
/// at the top: its parent has not ended yet, or the parent's process does not export here.
pub fn render(spans: &[Span]) -> String {
    let known: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut children: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        let parent = span.parent_span_id.as_str();
        children.entry(if known.contains(parent) { parent } else { "" }).or_default().push(span);
    }
    let origin = spans.iter().map(|span| span.start_ns).min().unwrap_or(0);
    let mut text = String::new();
    let mut pending: Vec<(usize, &Span)> = roots(&children, "").map(|span| (0, span)).collect();
    while let Some((depth, span)) = pending.pop() {
        line(&mut text, depth, span, origin);
        pending.extend(roots(&children, &span.span_id).map(|child| (depth + 1, child)));
    }
    text
}

/// Returns the children of `parent`, latest first: the caller pushes them on a stack, so that the earliest is
/// on top.
fn roots<'a>(children: &BTreeMap<&str, Vec<&'a Span>>, parent: &str) -> impl Iterator<Item = &'a Span> {
    let mut spans = children.get(parent).cloned().unwrap_or_default();
    spans.sort_by_key(|span| std::cmp::Reverse(span.start_ns));
    spans.into_iter()
}

fn line(text: &mut String, depth: usize, span: &Span, origin: u64) {
    let (began, took) = (millis(span.start_ns - origin), millis(span.end_ns.saturating_sub(span.start_ns)));
    let mut facts = String::new();
    for key in SHOWN {
        if let Some(value) = span.attributes.get(*key) {
            let _infallible = write!(facts, " {key}={value}");
        }
    }
    if let Some(error) = &span.error {
        let _infallible = write!(facts, " ✗ {error}");
    }
    let indent = "  ".repeat(depth);
    let _infallible =
        writeln!(text, "{began:>10.1} ms {took:>9.1} ms  {:<12} {indent}{}{facts}", span.service, span.name);
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for a person")]
fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: &str, name: &str, start_ns: u64) -> Span {
        Span {
            trace_id: "0".repeat(32),
            span_id: id.to_owned(),
            parent_span_id: parent.to_owned(),
            service: "chat-svc".to_owned(),
            instance: String::new(),
            name: name.to_owned(),
            start_ns,
            end_ns: start_ns + 1_000_000,
            error: None,
            links: Vec::new(),
            attributes: BTreeMap::new(),
        }
    }

    #[test]
    fn children_follow_their_parent_in_start_order() {
        let spans = [
            span("c", "a", "second", 3_000_000),
            span("b", "a", "first", 2_000_000),
            span("a", "", "root", 1_000_000),
        ];
        let names: Vec<String> = render(&spans)
            .lines()
            .map(|line| line.split("chat-svc").nth(1).unwrap().trim_start_matches(' ').to_owned())
            .collect();
        assert_eq!(names, ["root", "first", "second"]);
        assert!(render(&spans).lines().nth(1).unwrap().contains("chat-svc       first"));
    }

    #[test]
    fn a_span_without_a_known_parent_is_shown_at_the_top() {
        assert_eq!(render(&[span("b", "gone", "orphan", 0)]).lines().count(), 1);
    }
}
