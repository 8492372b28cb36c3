//! The table of bad requests with the expected answers.

use reqwest::{Method, header};
use serde_json::{Value, json};
use svc_core::id::new_id;

use super::{Case, Scene};

/// Size of a body that is larger than every limit.
const OVERSIZED: usize = 3 << 20;

/// Hosts of URLs that name this machine or a cloud's metadata service, in every notation.
const INSIDE: [&str; 24] = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "%31%32%37.0.0.1",
    "127.0.0.1.",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "0.0.0.0",
    "0",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "169.254.169.254",
    "2852039166",
    "0251.0376.0251.0376",
    "0xa9fea9fe",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "[64:ff9b::a9fe:a9fe]",
];

impl Scene {
    pub(super) fn cases(&self) -> Vec<Case> {
        let mut cases = self.bodies();
        cases.extend(self.ids_and_cursors());
        cases.extend(self.credentials());
        cases.extend(self.repetitions());
        cases.extend(self.files());
        cases.extend(self.urls());
        cases
    }

    fn bodies(&self) -> Vec<Case> {
        let text = |what: &str, body: &str, field| invalid(what, self.text("/v1/sessions", body), field);
        let turns = format!("/v1/sessions/{}/turns", self.session);
        let execs = format!("/v1/sandboxes/{}/execs", self.sandbox);
        let oversized = json!({ "title": "x".repeat(OVERSIZED) });
        vec![
            text("JSON that breaks off", "{\"title\":", "body"),
            text("JSON with more behind", "{} {}", "body"),
            text("a list", "[]", "body"),
            text("a number for a text", "{\"title\": 7}", "title"),
            text("an unknown field", "{\"titel\": \"a\"}", "titel"),
            text("a field twice", "{\"title\": \"a\", \"title\": \"b\"}", "title"),
            text("an unknown enum value", "{\"inputPolicy\": \"INPUT_POLICY_MAYBE\"}", "inputPolicy"),
            text("an unknown enum number", "{\"inputPolicy\": 99}", "inputPolicy"),
            text("a control character", "{\"title\": \"a\\u0007\"}", "title"),
            text("an unknown route", "{\"route\": \"nowhere\"}", "route"),
            invalid("no input", self.post(&turns, &json!({})), "input"),
            invalid("a NUL", self.post(&turns, &json!({ "input": "a\0b" })), "input"),
            invalid("a long input", self.post(&turns, &json!({ "input": "x".repeat(300 << 10) })), "input"),
            invalid("no program", self.post(&execs, &json!({ "argv": [] })), "argv"),
            invalid(
                "a bad time",
                self.post(&execs, &json!({ "argv": ["true"], "timeout": "soon" })),
                "timeout",
            ),
            invalid(
                "a long time",
                self.post(&execs, &json!({ "argv": ["true"], "timeout": "9000s" })),
                "timeout",
            ),
            invalid(
                "a bad variable",
                self.post(&execs, &json!({ "argv": ["true"], "env": { "A=B": "c" } })),
                "env",
            ),
            case("too much", self.post("/v1/sessions", &oversized), 413, "PAYLOAD_TOO_LARGE"),
            case(
                "another type",
                self.request(&self.ada.token, Method::POST, "/v1/sessions")
                    .header(header::CONTENT_TYPE, "text/plain")
                    .body("{}"),
                415,
                "UNSUPPORTED_MEDIA_TYPE",
            ),
            case("no such path", self.get("/v1/nothing"), 404, "ROUTE_NOT_FOUND"),
            case(
                "another method",
                self.request(&self.ada.token, Method::PUT, "/v1/sessions"),
                405,
                "METHOD_NOT_ALLOWED",
            ),
        ]
    }

    fn ids_and_cursors(&self) -> Vec<Case> {
        let events = |id: &str| format!("/v1/turns/{}/events?last_event_id={id}", self.turns[1]);
        let ahead = format!("{}9999", self.cursor.replace(&self.turns[0], &self.turns[1]));
        let unknown = new_id();
        vec![
            invalid("an id that is none", self.get("/v1/sessions/7"), "sessionId"),
            invalid("an id with a path in it", self.get("/v1/sessions/..%2f..%2fadmin"), "sessionId"),
            invalid("an id with a statement in it", self.get("/v1/turns/1'%20OR%20'1'='1"), "turnId"),
            case("an id of nothing", self.get(&format!("/v1/sessions/{unknown}")), 404, "NOT_FOUND"),
            case("a turn that is none", self.get(&format!("/v1/turns/{}", self.session)), 404, "NOT_FOUND"),
            case(
                "a turn in no session",
                self.post(&format!("/v1/sessions/{unknown}/turns"), &json!({ "input": "say a" })),
                404,
                "NOT_FOUND",
            ),
            invalid("a cursor that is none", self.get(&events("7")), "lastEventId"),
            invalid("a cursor of another turn", self.get(&events(&self.cursor)), "lastEventId"),
            invalid("a cursor ahead", self.get(&events(&ahead)), "lastEventId"),
            invalid("a page token that is none", self.get("/v1/sessions?page_token=bm90aGluZw"), "pageToken"),
            invalid(
                "a page token of another listing",
                self.get(&format!("/v1/sandboxes?page_token={}", self.page)),
                "pageToken",
            ),
            invalid("a negative page", self.get("/v1/sessions?page_size=-1"), "pageSize"),
            invalid("an unknown parameter", self.get("/v1/sessions?limit=1"), "limit"),
            case(
                "a final turn canceled",
                self.post(&format!("/v1/turns/{}:cancel", self.turns[0]), &json!({})),
                409,
                "TURN_FINAL",
            ),
        ]
    }

    fn credentials(&self) -> Vec<Case> {
        let sessions = "/v1/sessions";
        let as_bearer = |what: &str, token: &str| {
            case(what, self.request(token, Method::POST, sessions).json(&json!({})), 401, "UNAUTHENTICATED")
        };
        let foreign = |what: &str, path: &str| {
            case(what, self.request(&self.bob.token, Method::GET, path), 404, "NOT_FOUND")
        };
        let anonymous = || self.http.post(format!("{}{sessions}", self.cluster.url)).json(&json!({}));
        let mut other_end = self.ada.token.clone();
        let last = other_end.pop();
        other_end.push(if last == Some('A') { 'B' } else { 'A' });
        vec![
            case("no token", anonymous(), 401, "UNAUTHENTICATED"),
            case("another scheme", anonymous().basic_auth("ada", Some("secret")), 401, "UNAUTHENTICATED"),
            case(
                "an assertion from outside",
                anonymous().header("x-steward-principal", "e30.e30.e30"),
                401,
                "UNAUTHENTICATED",
            ),
            as_bearer("a token that is none", "hunter2"),
            as_bearer("an unknown token", &format!("stw_{}", "A".repeat(43))),
            as_bearer("a token but for its end", &other_end),
            as_bearer("an expired token", &self.tokens.expired),
            as_bearer("a revoked token", &self.tokens.revoked),
            case(
                "a token that may only read",
                self.request(&self.tokens.reader, Method::POST, sessions).json(&json!({})),
                403,
                "PERMISSION_DENIED",
            ),
            case(
                "a tenant that calls an operator's method",
                self.post("/v1/accounts", &json!({ "name": "mine" })),
                403,
                "PERMISSION_DENIED",
            ),
            case(
                "an agent that calls a tenant's method",
                self.request(&self.enrolment, Method::POST, sessions).json(&json!({})),
                403,
                "PERMISSION_DENIED",
            ),
            foreign("another tenant's session", &format!("/v1/sessions/{}", self.session)),
            foreign("another tenant's turn", &format!("/v1/turns/{}/events", self.turns[0])),
            foreign("another tenant's file", &format!("/v1/sandboxes/{}/files:read?path=file", self.sandbox)),
            foreign("another tenant's tokens", &format!("/v1/accounts/{}/tokens", self.ada.account)),
            case(
                "another tenant's sandbox",
                self.request(&self.bob.token, Method::POST, &format!("/v1/sandboxes/{}/execs", self.sandbox))
                    .json(&json!({ "argv": ["true"] })),
                404,
                "NOT_FOUND",
            ),
            case(
                "another tenant's session for a sandbox",
                self.request(&self.bob.token, Method::POST, "/v1/sandboxes")
                    .json(&json!({ "sessionId": self.session })),
                404,
                "NOT_FOUND",
            ),
        ]
    }

    fn repetitions(&self) -> Vec<Case> {
        let execs = format!("/v1/sandboxes/{}/execs", self.sandbox);
        vec![
            case(
                "a key for another request",
                self.post("/v1/sessions", &json!({ "title": "another" }))
                    .header("idempotency-key", super::KEY),
                409,
                "IDEMPOTENCY_KEY_REUSED",
            ),
            invalid(
                "a key with a blank",
                self.post("/v1/sessions", &json!({})).header("idempotency-key", "a b"),
                "Idempotency-Key",
            ),
            invalid(
                "a long key",
                self.post("/v1/sessions", &json!({})).header("idempotency-key", "k".repeat(256)),
                "Idempotency-Key",
            ),
            case(
                "a command's key for another command",
                self.post(&execs, &json!({ "key": "links", "argv": ["true"] })),
                409,
                "EXEC_KEY_REUSED",
            ),
            case(
                "a request's key for another command",
                self.post(&execs, &json!({ "argv": ["true"] })).header("idempotency-key", super::KEY),
                409,
                "IDEMPOTENCY_KEY_REUSED",
            ),
            invalid(
                "a command's key with a blank",
                self.post(&execs, &json!({ "key": "a b", "argv": ["true"] })),
                "key",
            ),
        ]
    }

    fn files(&self) -> Vec<Case> {
        let file = |sandbox: &str, what: &str, verb: &str, path: &str, status, code| {
            let url = format!("/v1/sandboxes/{sandbox}/files{verb}?path={path}");
            case(what, self.get(&url), status, code)
        };
        let read =
            |what: &str, path: &str, status, code| file(&self.sandbox, what, ":read", path, status, code);
        let write = |what: &str, path: &str, status, code| {
            let body = json!({ "path": path, "content": "aGk=" });
            case(what, self.post(&format!("/v1/sandboxes/{}/files:write", self.sandbox), &body), status, code)
        };
        let socket = |what: &str, verb: &str, path: &str| {
            file(&self.usurped, what, verb, path, 409, "SANDBOX_UNREACHABLE")
        };
        vec![
            read("a path that climbs", "../../etc/passwd", 400, "INVALID_ARGUMENT").at("path"),
            read(
                "a path that climbs from inside",
                "/workspace/folder/../../etc/passwd",
                400,
                "INVALID_ARGUMENT",
            )
            .at("path"),
            read("a path outside", "/etc/passwd", 400, "INVALID_ARGUMENT").at("path"),
            read("the host's view of a process", "/proc/self/environ", 400, "INVALID_ARGUMENT").at("path"),
            read("a link", "passwd", 409, "FILE_NOT_USABLE"),
            read("a link on the way", "root/etc/passwd", 409, "FILE_NOT_USABLE"),
            read("a folder", "folder", 409, "FILE_NOT_USABLE"),
            read("nothing", "nothing", 404, "FILE_NOT_FOUND"),
            case(
                "a NUL in a path",
                self.get(&format!("/v1/sandboxes/{}/files:read?path=a%00b", self.sandbox)),
                400,
                "INVALID_ARGUMENT",
            )
            .at("path"),
            file(&self.sandbox, "a listing that climbs", "", "..", 400, "INVALID_ARGUMENT").at("path"),
            file(&self.sandbox, "a listing through a link", "", "root", 409, "FILE_NOT_USABLE"),
            write("a write that climbs", "../etc/passwd", 400, "INVALID_ARGUMENT").at("path"),
            write("a write outside", "/tmp/file", 400, "INVALID_ARGUMENT").at("path"),
            write("a write to no path", "", 400, "INVALID_ARGUMENT").at("path"),
            write("a long name", &"a".repeat(256), 400, "INVALID_ARGUMENT").at("path"),
            read("a long name to read", &"a".repeat(256), 400, "INVALID_ARGUMENT").at("path"),
            write("a write through a link", "root/tmp/file", 409, "FILE_NOT_USABLE"),
            write("a write below a file", "file/below", 409, "FILE_NOT_USABLE"),
            write("a write over a folder", "folder", 409, "FILE_NOT_USABLE"),
            socket("a socket that is a link", ":read", "file"),
            socket("a socket that is a link, for a listing", "", "."),
        ]
    }

    fn urls(&self) -> Vec<Case> {
        let register = |url: &str, body: Value| {
            let request = self.request(&self.enrolment, Method::POST, "/v1/agents:register").json(&body);
            invalid(&format!("an agent at {url}"), request, "url")
        };
        let push = |url: &str| register(url, json!({ "deliveryMode": "DELIVERY_MODE_PUSH", "url": url }));
        let inside = INSIDE
            .iter()
            .flat_map(|host| [push(&format!("http://{host}/a2a")), push(&format!("https://{host}:8443/"))]);
        let malformed = [
            "",
            "/a2a",
            "169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "gopher://127.0.0.1:6379/_FLUSHALL",
            "http://example.com@169.254.169.254/",
            "http://user:password@example.com/",
            "http://exa mple.com/",
            "http://example.com/\r\nhost: 127.0.0.1",
            "http://[fe80::1%25eth0]/",
        ];
        inside.chain(malformed.iter().map(|url| push(url))).collect()
    }
}

impl Case {
    fn at(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }
}

fn case(what: &str, request: reqwest::RequestBuilder, status: u16, code: &'static str) -> Case {
    Case { what: what.to_owned(), request, status, code, field: None }
}

fn invalid(what: &str, request: reqwest::RequestBuilder, field: &'static str) -> Case {
    case(what, request, 400, "INVALID_ARGUMENT").at(field)
}
