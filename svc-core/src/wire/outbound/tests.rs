use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// A resolver for tests. Each name has a list of answers, which it gives one after the other; it repeats the
/// last.
#[derive(Debug, Default)]
struct Names {
    answers: Mutex<HashMap<&'static str, Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl Names {
    fn with(entries: &[(&'static str, &[&[&str]])]) -> Arc<Self> {
        let parse = |list: &&[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        let answers = entries.iter().map(|(name, rounds)| (*name, rounds.iter().map(parse).collect()));
        Arc::new(Self { answers: Mutex::new(answers.collect()), asked: AtomicUsize::new(0) })
    }
}

#[tonic::async_trait]
impl Resolver for Names {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut answers = self.answers.lock().unwrap();
        let rounds = answers.get_mut(name.trim_end_matches('.')).ok_or(io::ErrorKind::NotFound)?;
        Ok(if rounds.len() > 1 { rounds.remove(0) } else { rounds[0].clone() })
    }
}

fn outbound(mode: Mode, names: Arc<Names>) -> Outbound {
    let config = OutboundConfig {
        mode,
        resolve_timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(2),
        max_answer_bytes: 1000,
    };
    Outbound::with_resolver(&config, names).unwrap()
}

fn names() -> Arc<Names> {
    Names::with(&[
        ("localhost", &[&["127.0.0.1", "::1"]]),
        ("example.com", &[&["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]]),
        ("half.example", &[&["93.184.215.14", "10.0.0.1"]]),
        ("empty.example", &[&[]]),
    ])
}

const ALLOW: bool = true;
const BLOCK: bool = false;

/// (host, strict, dev, saas)
const HOSTS: &[(&str, bool, bool, bool)] = &[
    // loopback
    ("127.0.0.1", BLOCK, ALLOW, BLOCK),
    ("127.0.0.2", BLOCK, ALLOW, BLOCK),
    ("127.255.255.255", BLOCK, ALLOW, BLOCK),
    ("[::1]", BLOCK, ALLOW, BLOCK),
    ("localhost", BLOCK, ALLOW, BLOCK),
    ("localhost.", BLOCK, ALLOW, BLOCK),
    ("LOCALHOST", BLOCK, ALLOW, BLOCK),
    // loopback, spelled otherwise
    ("2130706433", BLOCK, ALLOW, BLOCK),
    ("0x7f.1", BLOCK, ALLOW, BLOCK),
    ("0177.0.0.1", BLOCK, ALLOW, BLOCK),
    ("127.1", BLOCK, ALLOW, BLOCK),
    ("0x7f000001", BLOCK, ALLOW, BLOCK),
    ("%31%32%37.0.0.1", BLOCK, ALLOW, BLOCK),
    ("１２７.0.0.1", BLOCK, ALLOW, BLOCK),
    ("[::ffff:127.0.0.1]", BLOCK, ALLOW, BLOCK),
    // unspecified
    ("0.0.0.0", BLOCK, BLOCK, BLOCK),
    ("0.1.2.3", BLOCK, BLOCK, BLOCK),
    ("0", BLOCK, BLOCK, BLOCK),
    ("[::]", BLOCK, BLOCK, BLOCK),
    // link-local and metadata
    ("169.254.169.254", BLOCK, BLOCK, BLOCK),
    ("169.254.0.1", BLOCK, BLOCK, BLOCK),
    ("2852039166", BLOCK, BLOCK, BLOCK),
    ("[fe80::1]", BLOCK, BLOCK, BLOCK),
    ("[::ffff:169.254.169.254]", BLOCK, BLOCK, BLOCK),
    ("[::ffff:a9fe:a9fe]", BLOCK, BLOCK, BLOCK),
    ("168.63.129.16", BLOCK, BLOCK, BLOCK),
    ("[fd00:ec2::254]", BLOCK, BLOCK, BLOCK),
    ("[fd20:ce::254]", BLOCK, BLOCK, BLOCK),
    ("100.100.100.200", BLOCK, BLOCK, BLOCK),
    ("192.0.0.192", BLOCK, BLOCK, BLOCK),
    // private
    ("10.0.0.1", BLOCK, ALLOW, ALLOW),
    ("10.255.255.254", BLOCK, ALLOW, ALLOW),
    ("172.16.0.1", BLOCK, ALLOW, ALLOW),
    ("172.18.0.5", BLOCK, ALLOW, ALLOW),
    ("172.31.255.255", BLOCK, ALLOW, ALLOW),
    ("172.32.0.1", ALLOW, ALLOW, ALLOW),
    ("192.168.0.1", BLOCK, ALLOW, ALLOW),
    ("192.168.255.254", BLOCK, ALLOW, ALLOW),
    ("[::ffff:10.0.0.1]", BLOCK, ALLOW, ALLOW),
    ("[fd00::1]", BLOCK, ALLOW, ALLOW),
    ("[fd12:3456:789a::42]", BLOCK, ALLOW, ALLOW),
    ("[fc00::1]", BLOCK, BLOCK, BLOCK),
    // shared, documentation, benchmarks, reserved
    ("100.64.0.1", BLOCK, BLOCK, BLOCK),
    ("100.127.255.254", BLOCK, BLOCK, BLOCK),
    ("192.0.2.1", BLOCK, BLOCK, BLOCK),
    ("198.51.100.5", BLOCK, BLOCK, BLOCK),
    ("203.0.113.254", BLOCK, BLOCK, BLOCK),
    ("[2001:db8::1]", BLOCK, BLOCK, BLOCK),
    ("[3fff::1]", BLOCK, BLOCK, BLOCK),
    ("192.0.0.1", BLOCK, BLOCK, BLOCK),
    ("198.18.0.1", BLOCK, BLOCK, BLOCK),
    ("198.19.255.255", BLOCK, BLOCK, BLOCK),
    ("240.0.0.1", BLOCK, BLOCK, BLOCK),
    ("255.255.255.255", BLOCK, BLOCK, BLOCK),
    // multicast
    ("224.0.0.1", BLOCK, BLOCK, BLOCK),
    ("224.0.0.251", BLOCK, BLOCK, BLOCK),
    ("239.1.1.1", BLOCK, BLOCK, BLOCK),
    ("[ff02::1]", BLOCK, BLOCK, BLOCK),
    ("[ff0e::1]", BLOCK, BLOCK, BLOCK),
    // addresses that contain another address, and translation prefixes
    ("[64:ff9b::a9fe:a9fe]", BLOCK, BLOCK, BLOCK),
    ("[64:ff9b::808:808]", BLOCK, BLOCK, BLOCK),
    ("[64:ff9b:1::1]", BLOCK, BLOCK, BLOCK),
    ("[2002:a9fe:a9fe::1]", BLOCK, BLOCK, BLOCK),
    ("[2001::1]", BLOCK, BLOCK, BLOCK),
    ("[::127.0.0.1]", BLOCK, BLOCK, BLOCK),
    ("[::8.8.8.8]", BLOCK, BLOCK, BLOCK),
    ("[fec0::1]", BLOCK, BLOCK, BLOCK),
    // public
    ("8.8.8.8", ALLOW, ALLOW, ALLOW),
    ("1.1.1.1", ALLOW, ALLOW, ALLOW),
    ("[2606:4700:4700::1111]", ALLOW, ALLOW, ALLOW),
    ("[::ffff:8.8.8.8]", ALLOW, ALLOW, ALLOW),
    ("example.com", ALLOW, ALLOW, ALLOW),
    // names that do not resolve, or that have an address in a forbidden network
    ("unknown.invalid", BLOCK, BLOCK, BLOCK),
    ("empty.example", BLOCK, BLOCK, BLOCK),
    ("half.example", BLOCK, ALLOW, ALLOW),
];

fn may_have_arrived(error: &Error) -> bool {
    match error {
        Error::Refused(_) | Error::NotSent(_) => false,
        Error::NoAnswer(_) | Error::TimedOut | Error::TooLarge(_) => true,
    }
}

#[tokio::test]
async fn every_host_is_checked_alike_when_stored_and_when_called() {
    for (mode, column) in [(Mode::Strict, 0), (Mode::Dev, 1), (Mode::Saas, 2)] {
        let outbound = outbound(mode, names());
        for (host, strict, dev, saas) in HOSTS {
            let want = [*strict, *dev, *saas][column];
            let url = format!("https://{host}:8443/a2a?x=1");
            assert_eq!(outbound.vet(&url).await.is_ok(), want, "{mode:?} {url}");
            if want == BLOCK {
                // A call makes the check too, because its URL need not come from `vet`.
                let call = Call {
                    method: Method::GET,
                    target: Target::parse(&url).unwrap(),
                    headers: HeaderMap::new(),
                    body: Bytes::new(),
                    timeout: Duration::from_secs(5),
                };
                let error = outbound.call(call).await.unwrap_err();
                assert!(matches!(error, Error::Refused(_)), "{mode:?} {url}: {error:?}");
                assert!(!may_have_arrived(&error));
            }
        }
    }
}

#[tokio::test]
async fn malformed_urls_are_refused_in_every_mode() {
    let long = format!("https://example.com/{}", "x".repeat(3000));
    for url in [
        "",
        "://x",
        "/a2a",
        "example.com",
        "http://:8080/a2a",
        "http://",
        "https://example.com:0/",
        "file:///etc/passwd",
        "ftp://example.com",
        "data:text/plain,x",
        "mailto:a@example.com",
        "gopher://example.com",
        "ws://example.com",
        "http://ok@169.254.169.254/",
        "http://u:p@example.com/",
        "http://[fe80::1%25eth0]/",
        "http://exa mple.com/",
        " https://example.com/",
        "https://example.com/\n",
        "https://example.com/#x",
        long.as_str(),
    ] {
        assert!(matches!(outbound(Mode::Dev, names()).vet(url).await, Err(Refused::Malformed(_))), "{url:?}");
    }
}

/// Starts a server that answers every connection with the same bytes. Returns its address and the number of
/// connections so far.
async fn peer(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    drop(crate::run::lifecycle::Lifecycle::new().spawn("peer", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }));
    (address, seen)
}

fn get(url: &str) -> Call {
    Call {
        method: Method::GET,
        target: Target::parse(url).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        timeout: Duration::from_millis(500),
    }
}

#[tokio::test]
async fn a_name_that_changes_its_answer_is_not_followed_inside() {
    // The name resolves to a public address when the URL is stored, and to loopback when it is dialled.
    let names = Names::with(&[("rebind.example", &[&["8.8.8.8"], &["127.0.0.1"]])]);
    let (address, seen) = peer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let outbound = outbound(Mode::Strict, names.clone());
    let url = format!("http://rebind.example:{}/", address.port());
    outbound.vet(&url).await.unwrap();
    let error = outbound.call(get(&url)).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refused::Forbidden)), "{error:?}");
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    assert_eq!(names.asked.load(Ordering::Relaxed), 2, "the call itself asks once");
}

#[tokio::test]
async fn the_checked_address_is_dialled() {
    let names = Names::with(&[("agent.example", &[&["127.0.0.1"]])]);
    let (address, seen) = peer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").await;
    let outbound = outbound(Mode::Dev, names.clone());
    let answer = outbound.call(get(&format!("http://agent.example:{}/", address.port()))).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"hi"[..]));
    assert_eq!((seen.load(Ordering::Relaxed), names.asked.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test]
async fn a_redirect_is_returned_as_the_answer() {
    let (address, seen) =
        peer("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n")
            .await;
    let answer = outbound(Mode::Dev, names()).call(get(&format!("http://{address}/"))).await.unwrap();
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn long_answers_and_silence_end_the_call() {
    let outbound = outbound(Mode::Dev, names());
    let (address, _) = peer("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\nx").await;
    let error = outbound.call(get(&format!("http://{address}/"))).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge(1000)) && may_have_arrived(&error), "{error:?}");

    let (address, _) = peer("").await;
    let error = outbound.call(get(&format!("http://{address}/"))).await.unwrap_err();
    assert!(may_have_arrived(&error), "{error:?}");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = outbound.call(get(&format!("http://{closed}/"))).await.unwrap_err();
    assert!(matches!(error, Error::NotSent(_)) && !may_have_arrived(&error), "{error:?}");
}
