use super::testing::{probe, table};
use super::*;

#[test]
fn the_contract_can_be_served() {
    let table = Table::decode(steward_proto::DESCRIPTORS).unwrap();
    assert!(table.routes().len() > 25);
    let upstreams = table.upstreams();
    for service in ["chat", "sandbox", "registry", "purge"] {
        assert!(upstreams.contains(service), "{service}");
    }
    let run = table.find(&Method::POST, "/v1/sessions/7/turns:run").unwrap();
    assert_eq!(run.route.rpc.full_name(), "steward.chat.v1.ChatService.RunTurn");
    assert_eq!(run.route.grpc_path, "/steward.chat.v1.ChatService/RunTurn");
    let Answer::Events(fields) = &run.route.answer else { panic!("RunTurn streams") };
    let names = [&fields.id, &fields.event, &fields.data].map(|path| path.as_ref().unwrap().json_name());
    assert_eq!(names, ["event.id", "event.kind", "event.payload"]);
    let events = table.find(&Method::GET, "/v1/turns/7/events").unwrap();
    assert_eq!(events.route.resume.as_ref().unwrap().json_name(), "lastEventId");
    assert_eq!(events.route.auth.scope, "sessions:read");
}

/// Decodes a contract with one service that has these methods.
fn with(methods: &str) -> Result<Table, Error> {
    table(&format!(
        r#"syntax = "proto3";
        package steward.chat.probe;
        import "google/api/annotations.proto";
        import "steward/common/v1/options.proto";
        message Word {{
          string id = 1; Word word = 2; repeated string many = 3; map<string, string> map = 4;
        }}
        message Marked {{
          string id = 1 [(steward.common.v1.sse) = SSE_ROLE_ID];
          string data = 2;
        }}
        message Twice {{
          string one = 1 [(steward.common.v1.sse) = SSE_ROLE_DATA];
          string two = 2 [(steward.common.v1.sse) = SSE_ROLE_DATA];
        }}
        message Number {{ int32 data = 1 [(steward.common.v1.sse) = SSE_ROLE_DATA]; }}
        message Resume {{ string last = 1 [(steward.common.v1.sse) = SSE_ROLE_LAST_EVENT_ID]; }}
        service S {{ {methods} }}"#
    ))
}

fn rpc(shape: &str, http: &str, auth: &str) -> String {
    format!(
        "rpc {shape} {{ option (google.api.http) = {{{http}}}; \
         option (steward.common.v1.auth) = {{{auth}}}; }}"
    )
}

const ACCOUNT: &str = "kinds: PRINCIPAL_KIND_ACCOUNT";

#[test]
fn an_unsupported_contract_is_refused_at_start() {
    let plain = "A(Word) returns (Word)";
    let cases = [
        ("no auth", r#"rpc A(Word) returns (Word) { option (google.api.http) = {get: "/a"}; }"#.to_owned()),
        ("no auth on a method without a binding", "rpc A(Word) returns (Word);".to_owned()),
        ("auth for no kind", rpc(plain, r#"get: "/a""#, "")),
        ("a scope for no kind", rpc(plain, r#"get: "/a""#, r#"scope: "a:read""#)),
        ("public and not", rpc(plain, r#"get: "/a""#, "public: true kinds: PRINCIPAL_KIND_ADMIN")),
        ("an unset kind", rpc(plain, r#"get: "/a""#, "kinds: PRINCIPAL_KIND_UNSPECIFIED")),
        ("no pattern", rpc(plain, r#"body: "*""#, ACCOUNT)),
        ("a pattern that is not served", rpc(plain, r#"get: "/a/**""#, ACCOUNT)),
        ("a nested pattern", rpc(plain, r#"get: "/a/{id=b/*}""#, ACCOUNT)),
        ("a variable without a field", rpc(plain, r#"get: "/a/{nothing}""#, ACCOUNT)),
        ("a variable that is a message", rpc(plain, r#"get: "/a/{word}""#, ACCOUNT)),
        ("a variable that is a list", rpc(plain, r#"get: "/a/{many}""#, ACCOUNT)),
        ("a variable within a map", rpc(plain, r#"get: "/a/{map.value}""#, ACCOUNT)),
        ("a body without a field", rpc(plain, r#"post: "/a" body: "nothing""#, ACCOUNT)),
        ("a body of GET", rpc(plain, r#"get: "/a" body: "*""#, ACCOUNT)),
        ("a body of DELETE", rpc(plain, r#"delete: "/a" body: "*""#, ACCOUNT)),
        ("a client's stream", rpc("A(stream Word) returns (Word)", r#"post: "/a" body: "*""#, ACCOUNT)),
        (
            "bindings in bindings",
            rpc(
                plain,
                r#"get: "/a" additional_bindings {get: "/b" additional_bindings {get: "/c"}}"#,
                ACCOUNT,
            ),
        ),
        (
            "one path twice",
            rpc(plain, r#"get: "/a/{id}" additional_bindings {get: "/a/{word.id}"}"#, ACCOUNT),
        ),
        ("frames without data", rpc("A(Word) returns (stream Marked)", r#"get: "/a""#, ACCOUNT)),
        ("two fields for the data", rpc("A(Word) returns (stream Twice)", r#"get: "/a""#, ACCOUNT)),
        ("data that is a number", rpc("A(Word) returns (stream Number)", r#"get: "/a""#, ACCOUNT)),
        ("a resumed answer that is no stream", rpc("A(Resume) returns (Word)", r#"get: "/a""#, ACCOUNT)),
        (
            "an answer that takes Last-Event-ID",
            rpc("A(Word) returns (stream Resume)", r#"get: "/a""#, ACCOUNT),
        ),
    ];
    for (what, methods) in cases {
        assert!(with(&methods).is_err(), "{what} was accepted");
    }
    let good = rpc(
        plain,
        r#"get: "/a/{id}" additional_bindings {post: "/a/{id}"} additional_bindings {get: "/a/{id}:b"}"#,
        ACCOUNT,
    );
    assert_eq!(with(&good).unwrap().routes().len(), 3);
    assert!(matches!(Table::decode(b"nonsense"), Err(Error::Descriptors(_))));
    assert!(matches!(Table::decode(b""), Err(Error::OptionMissing("google.api.http"))));
}

#[test]
fn an_unsupported_part_of_the_http_rule_is_refused() {
    // Google's HttpRule has the field `response_body`; our copy of http.proto does not. Adds the field, so
    // that the contract under test can use it.
    let source = r#"syntax = "proto3";
        package steward.chat.probe;
        import "google/api/annotations.proto";
        import "steward/common/v1/options.proto";
        message Word { string id = 1; }
        service S { rpc A(Word) returns (Word) {
          option (google.api.http) = {get: "/a" response_body: "id"};
          option (steward.common.v1.auth) = {public: true};
        } }"#;
    let dir = tempfile::tempdir().unwrap();
    let protos = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let http = std::fs::read_to_string(protos.join("google/api/http.proto")).unwrap();
    let whole = http.replace("string body = 7;", "string body = 7;\n  string response_body = 12;");
    std::fs::create_dir_all(dir.path().join("google/api")).unwrap();
    std::fs::write(dir.path().join("google/api/http.proto"), whole).unwrap();
    std::fs::write(dir.path().join("probe.proto"), source).unwrap();
    let mut compiler = protox::Compiler::new([dir.path(), &protos]).unwrap();
    compiler.include_imports(true).open_file("probe.proto").unwrap();
    let error = Table::decode(&compiler.encode_file_descriptor_set()).map(drop).unwrap_err();
    assert!(error.to_string().contains("response_body"), "{error}");
}

/// Returns the RPC and the variables' values for a request, or the methods that its path allows.
fn find(table: &Table, method: &str, path: &str) -> Result<(String, Vec<String>), Vec<String>> {
    match table.find(&method.parse().unwrap(), path) {
        Ok(found) => {
            Ok((found.route.rpc.name().to_owned(), found.values.into_iter().map(str::to_owned).collect()))
        }
        Err(NoMatch::Path) => Err(Vec::new()),
        Err(NoMatch::Method(allowed)) => Err(allowed.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn requests_find_their_route() {
    let table = probe();
    for (method, path, rpc, values) in [
        ("POST", "/v1/probes/a", "Echo", vec!["a"]),
        ("GET", "/v1/probes/a", "Echo", vec!["a"]),
        ("HEAD", "/v1/probes/a", "Echo", vec!["a"]),
        ("PUT", "/v1/probes/a/nested/b", "Echo", vec!["a", "b"]),
        ("PATCH", "/v1/probes/a", "EchoNested", vec!["a"]),
        ("POST", "/v1/probes:list", "EchoNested", vec![]),
        ("GET", "/v1/probes", "EchoQuery", vec![]),
        ("GET", "/v1/probes/a:watch", "Watch", vec!["a"]),
        // An id may contain a colon, or end like a verb that this method does not have.
        ("GET", "/v1/probes/a:b", "Echo", vec!["a:b"]),
        ("GET", "/v1/probes/a:b:watch", "Watch", vec!["a:b"]),
        ("POST", "/v1/probes/a:watch", "Echo", vec!["a:watch"]),
        // The segment is not decoded, so the encoded slash does not split it.
        ("GET", "/v1/probes/a%2Fb", "Echo", vec!["a%2Fb"]),
        ("GET", "/v1/probes/a%3Awatch", "Echo", vec!["a%3Awatch"]),
        ("GET", "/v1/numbers/7/true/COLOR_RED", "EchoNumbers", vec!["7", "true", "COLOR_RED"]),
    ] {
        let values: Vec<_> = values.into_iter().map(str::to_owned).collect();
        assert_eq!(find(&table, method, path), Ok((rpc.to_owned(), values)), "{method} {path}");
    }
}

#[test]
fn unknown_paths_and_unknown_methods_differ() {
    let table = probe();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/probes/",
        "/v1//probes",
        "/v1/probes/a/",
        "/v1/probes/a/b",
        "/v2/probes",
        "",
        "*",
        "/v1/hidden",
    ] {
        assert_eq!(find(&table, "GET", path), Err(vec![]), "{path}");
    }
    assert_eq!(
        find(&table, "DELETE", "/v1/probes/a"),
        Err(vec!["GET".to_owned(), "PATCH".to_owned(), "POST".to_owned()])
    );
    assert_eq!(find(&table, "POST", "/v1/probes"), Err(vec!["GET".to_owned()]));
    assert_eq!(find(&table, "OPTIONS", "/v1/probes:list"), Err(vec!["POST".to_owned()]));
}
