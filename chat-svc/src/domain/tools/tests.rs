use proptest::prelude::*;

use super::{result::MAX_RESULT_BYTES, *};

fn call(name: &str, arguments: &Value) -> ToolCall {
    ToolCall { id: "c1".into(), name: name.into(), arguments: arguments.to_string() }
}

#[test]
fn every_tool_parses_its_own_call() {
    let shell = |timeout| BuiltIn::Act(ActTool::Shell { command: "ls".into(), timeout });
    let list = |path: &str| BuiltIn::Read(ReadTool::ListFiles { path: path.into() });
    let table = [
        (call("shell", &json!({"command": "ls"})), shell(DEFAULT_TIMEOUT)),
        (call("shell", &json!({"command": "ls", "timeout_seconds": 5})), shell(Duration::from_secs(5))),
        (call("shell", &json!({"command": "ls", "timeout_seconds": null})), shell(DEFAULT_TIMEOUT)),
        (
            call("read_file", &json!({"path": "a.txt"})),
            BuiltIn::Read(ReadTool::ReadFile { path: "a.txt".into() }),
        ),
        (
            call("write_file", &json!({"path": "a", "content": ""})),
            BuiltIn::Act(ActTool::WriteFile { path: "a".into(), content: String::new() }),
        ),
        (call("list_files", &json!({})), list("")),
        (call("list_files", &json!({"path": "/tmp"})), list("/tmp")),
    ];
    for (call, read) in table {
        assert_eq!(BuiltIn::parse(&call).unwrap(), read);
    }
}

#[test]
fn a_wrong_call_gets_a_sentence_the_model_can_act_on() {
    let again = "Correct the arguments and call it again.";
    let long = "x".repeat(MAX_COMMAND_BYTES + 1);
    let table = [
        ("shell", json!({}), "missing field `command`"),
        ("shell", json!({"command": 1}), "invalid type: integer `1`, expected a string"),
        ("shell", json!({"cmd": "ls"}), "unknown field `cmd`, expected `command` or `timeout_seconds`"),
        ("shell", json!({"command": "  "}), "command must not be empty"),
        ("shell", json!({"command": "a\0b"}), "command must not contain a NUL byte"),
        ("shell", json!({"command": long}), "command must have at most 65536 bytes"),
        ("shell", json!({"command": "ls", "timeout_seconds": 0}), "timeout_seconds must be 1 to 600"),
        ("shell", json!({"command": "ls", "timeout_seconds": 601}), "timeout_seconds must be 1 to 600"),
        ("shell", json!({"command": "ls", "timeout_seconds": -1}), "invalid value: integer `-1`"),
        ("shell", json!(["ls"]), "invalid type: sequence, expected a map"),
        ("read_file", json!({"path": ""}), "path must not be empty"),
        ("write_file", json!({"path": "a"}), "missing field `content`"),
        ("list_files", json!({"path": "a", "all": true}), "unknown field `all`"),
    ];
    for (tool, arguments, problem) in table {
        let text = BuiltIn::parse(&call(tool, &arguments)).unwrap_err().to_string();
        assert!(text.contains(problem) && text.contains(tool) && text.ends_with(again), "{text}");
        assert!(!text.contains("at line"), "{text}");
    }
    let unknown = BuiltIn::parse(&call("rm_rf", &json!({}))).unwrap_err().to_string();
    assert_eq!(
        unknown,
        r#"There is no tool named "rm_rf". The tools are: shell, read_file, write_file, list_files."#
    );
}

#[test]
fn specs_and_parser_agree_on_names_and_required_arguments() {
    let specs = specs();
    assert_eq!(specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), NAMES);
    for spec in specs {
        assert_eq!(spec.parameters["additionalProperties"], json!(false));
        let properties = spec.parameters["properties"].as_object().unwrap();
        let sample = |name: &String| if name == "timeout_seconds" { json!(1) } else { json!("a") };
        let full: serde_json::Map<_, _> =
            properties.keys().map(|name| (name.clone(), sample(name))).collect();
        BuiltIn::parse(&call(&spec.name, &full.clone().into())).unwrap();
        for name in properties.keys() {
            let mut without = full.clone();
            without.remove(name);
            let required = spec.parameters["required"].as_array().unwrap().contains(&json!(name));
            assert_eq!(
                BuiltIn::parse(&call(&spec.name, &without.into())).is_err(),
                required,
                "{}.{name}",
                spec.name
            );
        }
    }
}

#[test]
fn only_reading_tools_may_be_repeated() {
    let read_only =
        |name, arguments| matches!(BuiltIn::parse(&call(name, &arguments)).unwrap(), BuiltIn::Read(_));
    assert!(read_only("read_file", json!({"path": "a"})) && read_only("list_files", json!({})));
    assert!(!read_only("shell", json!({"command": "a"})));
    assert!(!read_only("write_file", json!({"path": "a", "content": "b"})));
}

#[test]
fn a_command_reads_back_with_its_exit_code_and_both_streams() {
    let ran =
        ExecResult { exit_code: 2, stdout: "out\n".into(), stderr: "err".into(), ..ExecResult::default() };
    let rendered = Outcome::Exec(ran).render();
    assert_eq!(rendered.content, "exit code: 2\nstdout:\nout\nstderr:\nerr\n");
    assert!(rendered.is_error && !rendered.in_doubt);
    let silent = Outcome::Exec(ExecResult::default()).render();
    assert_eq!(
        silent,
        Rendered { content: "exit code: 0\n(no output)\n".into(), is_error: false, in_doubt: false }
    );
    let killed = ExecResult { exit_code: 137, timed_out: Some(DEFAULT_TIMEOUT), ..ExecResult::default() };
    assert!(Outcome::Exec(killed).render().content.starts_with("timed out after 60 s and was killed\n"));
}

#[test]
fn a_long_output_keeps_both_ends_and_says_what_is_left_out() {
    let stdout = format!("begin{}end", "é".repeat(MAX_RESULT_BYTES));
    let text =
        Outcome::Exec(ExecResult { stdout, truncated: true, ..ExecResult::default() }).render().content;
    assert!(text.len() <= MAX_RESULT_BYTES, "{}", text.len());
    assert!(text.contains("stdout:\nbegin") && text.contains("end\n") && text.contains("bytes left out …]"));
    assert!(text.ends_with("(the command wrote more than was kept)\n"));
}

#[test]
fn a_long_stream_leaves_room_for_the_other() {
    let loud = "x".repeat(MAX_RESULT_BYTES * 2);
    let result = ExecResult { stdout: loud.clone(), stderr: "the reason".into(), ..ExecResult::default() };
    let text = Outcome::Exec(result).render().content;
    assert!(text.contains("stderr:\nthe reason\n") && text.len() <= MAX_RESULT_BYTES);
    let result = ExecResult { stdout: loud.clone(), stderr: loud, ..ExecResult::default() };
    assert!(Outcome::Exec(result).render().content.len() <= MAX_RESULT_BYTES);
}

#[test]
fn files_and_directories_read_back_as_text() {
    let render = |outcome: Outcome| outcome.render().content;
    assert_eq!(render(Outcome::Read { content: b"hello".to_vec() }), "hello");
    assert_eq!(render(Outcome::Read { content: Vec::new() }), "(the file is empty)");
    assert_eq!(
        render(Outcome::Read { content: vec![0xff; 3] }),
        "The file is not text: 3 bytes that are not UTF-8."
    );
    assert_eq!(render(Outcome::Wrote { path: "a".into(), bytes: 3 }), "Wrote 3 bytes to a.");
    let entry = |name: &str, kind| Entry { name: name.into(), kind, bytes: 7 };
    let entries = vec![
        entry("a", EntryKind::File),
        entry("b", EntryKind::Directory),
        entry("c", EntryKind::Symlink),
        entry("d", EntryKind::Other),
    ];
    assert_eq!(
        render(Outcome::Listed { entries, truncated: true }),
        "a (7 bytes)\nb/\nc (symbolic link)\nd (special file)\n(the directory has more entries)\n"
    );
    let many = vec![entry(&"n".repeat(100), EntryKind::File); 1000];
    let text = render(Outcome::Listed { entries: many, truncated: false });
    assert!(text.len() <= MAX_RESULT_BYTES && text.contains("entries left out …]"));
}

#[test]
fn a_call_in_doubt_says_so() {
    let rendered = Outcome::InDoubt.render();
    assert!(
        rendered.in_doubt
            && rendered.is_error
            && rendered.content.starts_with("This call may or may not have run")
    );
}

proptest! {
    #[test]
    fn no_result_exceeds_its_maximum(stdout in "\\PC{0,3}", stderr in "\\PC{0,3}", times in 0..60_000_usize) {
        let (long, stderr) = (stdout.repeat(times), stderr.repeat(times));
        let result = ExecResult { stdout: long, stderr, ..ExecResult::default() };
        prop_assert!(Outcome::Exec(result).render().content.len() <= MAX_RESULT_BYTES);
        let read = Outcome::Read { content: stdout.repeat(times).into_bytes() };
        prop_assert!(read.render().content.len() <= MAX_RESULT_BYTES);
    }

    #[test]
    fn no_arguments_make_the_parser_panic(
        name in "shell|read_file|write_file|list_files|x", arguments in "\\PC*",
    ) {
        let _parsed = BuiltIn::parse(&ToolCall { id: "c".into(), name, arguments });
    }
}
