use std::sync::Arc;

use svc_core::error::{Invalid, status};

use super::*;

#[test]
fn a_services_error_is_passed_to_the_caller() {
    let invalid = [Invalid::new("turn.last_event_id", "must be a cursor")];
    let after = Some(Duration::from_millis(1200));
    let problem =
        Problem::from(status(ErrorKind::InvalidArgument, "BAD_CURSOR", "no such cursor", after, &invalid));
    assert_eq!(problem.status, 400);
    let document: serde_json::Value = serde_json::from_str(&problem.document("r-1")).unwrap();
    let expected = serde_json::json!({
        "type": "urn:steward:problem:BAD_CURSOR",
        "title": "Bad Request",
        "status": 400,
        "detail": "no such cursor",
        "code": "BAD_CURSOR",
        "retryable": false,
        "retry_after": 2,
        "request_id": "r-1",
        "errors": [{"field": "turn.lastEventId", "detail": "must be a cursor"}],
    });
    assert_eq!(document, expected);
}

#[test]
fn every_kind_has_its_status_and_retry_advice() {
    for kind in ErrorKind::ALL {
        let problem = Problem::from(status(kind, "REASON", "text", None, &[]));
        assert_eq!(problem.status.as_u16(), kind.row().http_status, "{kind:?}");
        assert_eq!(problem.retryable, kind.row().retryable, "{kind:?}");
        let internal = kind == ErrorKind::Internal;
        assert_eq!(problem.code == "REASON" && problem.detail == "text", !internal, "{kind:?}");
    }
}

#[test]
fn texts_of_transports_and_defects_are_not_public() {
    for code in (0..=16).map(Code::from_i32) {
        let problem = Problem::from(Status::new(code, "tcp connect error: 10.0.0.7:7101"));
        assert!(!problem.document("r").contains("10.0.0.7"), "{code:?}");
    }
    let defect = status(ErrorKind::Internal, "SECRET_REASON", "select * from turns", None, &[]);
    let document = Problem::from(defect).document("r");
    assert!(!document.contains("select") && !document.contains("SECRET_REASON"), "{document}");
}

#[test]
fn a_librarys_error_is_a_defect_a_broken_transport_an_outage() {
    assert_eq!(Problem::from(Status::not_found("x")).status, 500);
    assert_eq!(Problem::from(Status::internal("x")).status, 500);
    for code in [Code::Unknown, Code::Internal, Code::Cancelled, Code::Unavailable] {
        let mut broken = Status::new(code, "broken pipe");
        broken.set_source(Arc::new(std::io::Error::other("broken pipe")));
        assert_eq!(Problem::from(broken).status, 503, "{code:?}");
    }
}

#[test]
fn every_429_and_503_has_retry_after() {
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
        let answer = Problem::http(status, "X", "x").into_answer("r");
        assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
    }
    let rounded = Problem::internal().retry_after(Duration::from_millis(2001)).into_answer("r");
    assert_eq!(rounded.headers()[header::RETRY_AFTER], "3");
    assert!(!Problem::no_route().into_answer("r").headers().contains_key(header::RETRY_AFTER));
}

#[test]
fn a_401_names_the_authentication_scheme() {
    let answer =
        Problem::from(status(ErrorKind::Unauthenticated, "UNAUTHENTICATED", "x", None, &[])).into_answer("r");
    assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], "Bearer");
    assert_eq!(answer.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
}

#[test]
fn other_methods_are_named() {
    let answer = Problem::method_not_allowed(&[Method::DELETE, Method::GET]).into_answer("r");
    assert_eq!(answer.status(), 405);
    assert_eq!(answer.headers()[header::ALLOW], "DELETE, GET");
}
