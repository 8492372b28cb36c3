//! Runs README.md word for word: every `console` block runs in one shell, in order, and must print the lines
//! that the page shows.
//!
//! In expected output `…` matches any text on its line; a line that is only `…` matches any number of lines.

use std::{
    fs,
    process::{Command, Stdio},
};

use suite_tests::cluster::{Cluster, program, repository};

/// Text printed between commands; no command prints it.
const MARK: &str = "-- end of command --";

#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    expected: Vec<String>,
}

#[tokio::test]
async fn what_the_readme_shows_is_what_happens() {
    let steps = steps(&fs::read_to_string(repository().join("README.md")).unwrap());
    assert!(steps.len() >= 5, "README.md shows too little: {steps:?}");
    let cluster = Cluster::builder().start().await;
    let tenant = cluster.tenant("reader").await;
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join(".steward");
    std::os::unix::fs::symlink(cluster.home(), &home).unwrap();
    fs::write(home.join("url"), &cluster.url).unwrap();
    fs::write(home.join("token"), &tenant.token).unwrap();
    cluster.plane.layout().write(&home).unwrap();

    let script: String = steps.iter().map(|step| format!("{}\necho '{MARK}'\n", step.command)).collect();
    let path = format!("{}:{}", program().parent().unwrap().display(), std::env::var("PATH").unwrap());
    // If a command hangs, the report shows that it printed nothing.
    let mut shell = Command::new("timeout");
    shell
        .args(["90", "bash", "-c", &script])
        .current_dir(directory.path())
        .env("PATH", path)
        .env_remove("STEWARD_HOME");
    shell.env_remove("STEWARD_URL").env_remove("STEWARD_TOKEN").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));

    let mut printed = text.split(MARK);
    for step in &steps {
        let lines: Vec<&str> = printed.next().unwrap().trim_matches('\n').lines().collect();
        assert!(
            matches(&step.expected, &lines),
            "$ {}\nprinted\n{}\ninstead of\n{}\nand on standard error\n{errors}\n{}",
            step.command,
            lines.join("\n"),
            step.expected.join("\n"),
            cluster.logs(),
        );
    }
    cluster.stop().await;
}

/// Returns the commands of the `console` blocks, each with the lines shown below it.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (inside, line) {
            (false, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.to_owned(), expected: Vec::new() }),
                (None, Some(step)) => step.expected.push(line.to_owned()),
                (None, None) => panic!("output before the first command: {line}"),
            },
            (false, _) => {}
        }
    }
    steps
}

fn matches(expected: &[String], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "…" => {
            (0..=lines.len()).any(|skipped| matches(rest, &lines[skipped..]))
        }
        (Some((first, rest)), Some((line, lines))) => matches_line(first, line) && matches(rest, lines),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn matches_line(expected: &str, line: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (expected, line) = (words(expected), words(line));
    let mut parts = expected.split('…');
    let Some(mut rest) = parts.next().and_then(|start| line.strip_prefix(start)) else { return false };
    let mut open = false;
    for part in parts {
        open = true;
        match rest.find(part) {
            // The last part must be at the end of the line.
            Some(_) if rest.ends_with(part) && !part.is_empty() && expected.ends_with(part) => return true,
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || (open && expected.ends_with('…'))
}

#[test]
fn a_page_is_read_as_commands_and_what_they_print() {
    let page = "text\n```sh\n$ not this\n```\n```console\n$ a\nb …\n…\n$ c\n```\n";
    let step = |command: &str, expected: &[&str]| Step {
        command: command.to_owned(),
        expected: expected.iter().map(|&line| line.to_owned()).collect(),
    };
    assert_eq!(steps(page), [step("a", &["b …", "…"]), step("c", &[])]);
}

#[test]
fn an_ellipsis_stands_for_anything_on_its_line_or_for_any_lines() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let fits =
        |expected: &str, printed: &str| matches(&lines(expected), &printed.lines().collect::<Vec<_>>());
    assert!(fits("id: …:1", "id: 0192-a:1"));
    assert!(fits("a\n…\nz", "a\nz") && fits("a\n…\nz", "a\nb\nc\nz"));
    assert!(fits("data: {…}", "data: {\"x\":{}}"));
    assert!(!fits("id: …:1", "id: 0192:12") && !fits("a", "a\nb") && !fits("a …\nz", "a b"));
}
