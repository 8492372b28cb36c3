//! Tests clients that send slowly, send too much or do not speak HTTP.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    test_gateway::{TOKEN, TestGateway},
    upstream::echo,
};

async fn start() -> TestGateway {
    let change = |config: &mut gateway::Config| {
        config.connections.header_timeout = Duration::from_millis(500);
        config.connections.max_header_bytes = 16 * 1024;
        config.connections.max_headers = 20;
        config.requests.body_timeout = Duration::from_millis(500);
    };
    TestGateway::with(steward_proto::DESCRIPTORS, change, echo).await
}

/// Sends pieces with pauses between them, then reads until the other side closes.
async fn exchange(gateway: &TestGateway, pieces: &[&str], pause: Duration) -> (String, Duration) {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let start = Instant::now();
    for piece in pieces {
        if stream.write_all(piece.as_bytes()).await.is_err() {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    // A reset closes the connection too, so an error of the read is accepted.
    let _closed = read.expect("the connection is closed");
    (String::from_utf8_lossy(&answer).into_owned(), start.elapsed())
}

#[tokio::test]
async fn a_head_that_does_not_come_closes_the_connection() {
    let gateway = start().await;
    for pieces in [&[][..], &["GET /v1"], &["GET /v1/sessions HTTP/1.1\r\nhost: x\r\n"]] {
        let (answer, took) = exchange(&gateway, pieces, Duration::ZERO).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!((400..2000).contains(&took.as_millis()), "{took:?}");
    }
    // Sending single bytes does not extend the time limit.
    let drip: Vec<&str> = "GET / HTTP/1.1\r\nhost: x".split("").collect();
    let (_, took) = exchange(&gateway, &drip, Duration::from_millis(60)).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408() {
    let gateway = start().await;
    let head = format!(
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    let (answer, took) = exchange(&gateway, &[&head], Duration::ZERO).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("BODY_TIMEOUT"), "{answer}");
    assert!((400..2000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(gateway.upstream.count(), 0);
}

#[tokio::test]
async fn a_head_too_large_is_refused() {
    let gateway = start().await;
    let long = format!("GET /v1/sessions HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    let many = format!("GET /v1/sessions HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(30));
    for head in [long, many] {
        let (answer, _) = exchange(&gateway, &[&head], Duration::ZERO).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let gateway = start().await;
    for text in ["\x16\x03\x01\x02\x00\x01\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/9\r\n\r\n"] {
        let (answer, _) = exchange(&gateway, &[text], Duration::ZERO).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let gateway = start().await;
    let request = format!("GET /v1/sessions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    let (answer, _) = exchange(&gateway, &[&request, &request, &request], Duration::from_millis(50)).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 3, "{answer}");
}

#[tokio::test]
async fn a_client_too_many_waits_for_a_place() {
    let gateway =
        TestGateway::with(steward_proto::DESCRIPTORS, |config| config.connections.max = 1, echo).await;
    let first = TcpStream::connect(gateway.address).await.unwrap();
    // This connection uses the only slot and sends nothing.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (answer, ()) = tokio::join!(gateway.get("/v1/sessions").send(), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(gateway.upstream.count(), 0);
        drop(first);
    });
    assert_eq!(answer.unwrap().status(), 200);
}
