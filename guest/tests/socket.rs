//! Tests the guest through its socket, as sandbox-svc uses it.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use steward_guest::{Config, Limits, Roots, SOCKET_NAME, serve};
use steward_proto::guest::v1::{
    BindRequest, ExecRequest, HelloRequest, ListFilesRequest, ReadFileRequest, Record, RecordState,
    ResolveRequest, WriteFileRequest, guest_service_client::GuestServiceClient,
};
use tokio::net::UnixStream;
use tokio_util::task::TaskTracker;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

type Client = GuestServiceClient<Channel>;

struct Place {
    base: tempfile::TempDir,
    client: Client,
    _server: TaskTracker,
}

async fn guest() -> Place {
    guest_with(Limits::STANDARD).await
}

async fn guest_with(limits: Limits) -> Place {
    let base = tempfile::tempdir().unwrap();
    for directory in ["workspace", "tmp", "home/user", "run"] {
        fs::create_dir_all(base.path().join(directory)).unwrap();
    }
    let run_dir = base.path().join("run");
    let config = Config {
        run_dir: run_dir.clone(),
        sandbox_id: "sandbox".into(),
        generation: 7,
        roots: Roots::under(base.path()),
        limits,
    };
    let server = TaskTracker::new();
    server.spawn(async move { serve(config, std::future::pending()).await.unwrap() });
    let socket = run_dir.join(SOCKET_NAME);
    while !socket.exists() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Place { base, client: connect(socket).await, _server: server }
}

async fn connect(socket: PathBuf) -> Client {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://guest").connect_with_connector(connector).await.unwrap();
    GuestServiceClient::new(channel)
}

/// Shell script that makes the file `started`, and exits once the file `release` exists.
const UNTIL_RELEASED: &str = "touch started; while [ ! -e release ]; do sleep 0.01; done; echo done";

fn sh(key: &str, script: &str) -> ExecRequest {
    ExecRequest {
        key: key.into(),
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        output_limit_bytes: 1_000,
        ..ExecRequest::default()
    }
}

fn resolve(key: &str, wait: Duration) -> ResolveRequest {
    ResolveRequest { key: key.into(), wait: wait.try_into().ok(), ..ResolveRequest::default() }
}

impl Place {
    async fn exec(&self, request: ExecRequest) -> Record {
        self.client.clone().exec(request).await.unwrap().into_inner().record.unwrap()
    }
    async fn resolve(&self, key: &str, wait: Duration) -> Record {
        self.client.clone().resolve(resolve(key, wait)).await.unwrap().into_inner().record.unwrap()
    }
    /// Sends the request and drops it as soon as the command has started.
    async fn leave_running(&self, request: ExecRequest) {
        let mut client = self.client.clone();
        let started = async {
            while !self.workspace("started").exists() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            answer = client.exec(request) => panic!("answered before it was dropped: {answer:?}"),
            () = started => {}
        }
    }
    fn workspace(&self, name: &str) -> PathBuf {
        self.base.path().join("workspace").join(name)
    }
}

#[tokio::test]
async fn a_repeated_key_returns_the_record_and_runs_nothing() {
    let place = guest().await;
    let first = place.exec(sh("a", "echo run >> ran; cat ran")).await;
    assert_eq!(
        (first.state(), first.exit_code, &first.stdout[..]),
        (RecordState::Finished, 0, &b"run\n"[..])
    );
    assert_eq!(place.exec(sh("a", "echo run >> ran; cat ran")).await, first);
    assert_eq!(place.resolve("a", Duration::ZERO).await, first);
    assert_eq!(fs::read_to_string(place.workspace("ran")).unwrap(), "run\n");
}

#[tokio::test]
async fn a_resolved_unknown_key_never_runs_afterwards() {
    let place = guest().await;
    assert_eq!(place.resolve("late", Duration::ZERO).await.state(), RecordState::Abandoned);
    assert_eq!(place.exec(sh("late", "touch ran")).await.state(), RecordState::Abandoned);
    assert!(!place.workspace("ran").exists());
}

#[tokio::test]
async fn a_call_continues_after_its_caller_disconnects() {
    let place = guest().await;
    place.leave_running(sh("a", UNTIL_RELEASED)).await;
    assert_eq!(place.resolve("a", Duration::ZERO).await.state(), RecordState::Running);
    fs::write(place.workspace("release"), "").unwrap();
    let record = place.resolve("a", Duration::from_secs(10)).await;
    assert_eq!((record.state(), &record.stdout[..]), (RecordState::Finished, &b"done\n"[..]));
}

#[tokio::test]
async fn a_canceled_call_is_killed_and_recorded() {
    let place = guest().await;
    place.leave_running(sh("a", UNTIL_RELEASED)).await;
    let cancel = ResolveRequest { cancel: true, ..resolve("a", Duration::from_secs(10)) };
    let record = place.client.clone().resolve(cancel).await.unwrap().into_inner().record.unwrap();
    assert_eq!((record.state(), record.exit_code, record.timed_out), (RecordState::Finished, 137, false));
    assert_eq!(place.exec(sh("a", "touch ran")).await, record);
    assert!(!place.workspace("ran").exists());
}

#[tokio::test]
async fn a_call_for_another_instance_is_refused_and_not_recorded() {
    let place = guest().await;
    let hello = place.client.clone().hello(HelloRequest {}).await.unwrap().into_inner();
    assert_eq!((hello.sandbox_id.as_str(), hello.generation, hello.instance.len()), ("sandbox", 7, 32));
    let stale = ExecRequest { instance: "0".repeat(32), ..sh("a", "true") };
    assert_eq!(place.client.clone().exec(stale).await.unwrap_err().code(), Code::Aborted);
    let own = ExecRequest { instance: hello.instance, ..sh("a", "true") };
    assert_eq!(place.exec(own).await.state(), RecordState::Finished);
}

#[tokio::test]
async fn a_calls_own_environment_overrides_the_bound_one() {
    let place = guest().await;
    let env =
        BTreeMap::from([("WHO".to_owned(), "bound".to_owned()), ("WHERE".to_owned(), "here".to_owned())]);
    place.client.clone().bind(BindRequest { env }).await.unwrap();
    let mut request = sh("a", "echo $WHO $WHERE");
    request.env.insert("WHO".into(), "mine".into());
    assert_eq!(&place.exec(request).await.stdout[..], b"mine here\n");
}

#[tokio::test]
async fn invalid_calls_are_refused() {
    let place = guest().await;
    let mut client = place.client.clone();
    let env = |name: &str, value: &str| ExecRequest {
        env: BTreeMap::from([(name.to_owned(), value.to_owned())]),
        ..sh("a", "true")
    };
    let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    for (what, request, code) in [
        ("no key", sh("", "true"), Code::InvalidArgument),
        ("long key", sh(&"k".repeat(129), "true"), Code::InvalidArgument),
        ("no argv", ExecRequest { argv: vec![], ..sh("a", "") }, Code::InvalidArgument),
        ("argv with a NUL", ExecRequest { argv: vec!["a\0".into()], ..sh("a", "") }, Code::InvalidArgument),
        ("cwd with a NUL", ExecRequest { cwd: "a\0".into(), ..sh("a", "true") }, Code::InvalidArgument),
        ("name in env", env("A=B", ""), Code::InvalidArgument),
        ("empty name in env", env("", ""), Code::InvalidArgument),
        ("reserved name in env", env("STEWARD_EXEC", ""), Code::InvalidArgument),
        ("value in env", env("A", "\0"), Code::InvalidArgument),
        ("negative timeout", ExecRequest { timeout: negative, ..sh("a", "true") }, Code::InvalidArgument),
        ("stdin", ExecRequest { stdin: vec![0; (1 << 20) + 1].into(), ..sh("a", "") }, Code::OutOfRange),
    ] {
        assert_eq!(client.exec(request).await.unwrap_err().code(), code, "{what}");
    }
    // The refused calls recorded nothing: the key is still unknown.
    assert_eq!(place.exec(sh("a", "true")).await.exit_code, 0);
}

#[tokio::test]
async fn calls_over_the_running_limit_are_refused_until_one_ends() {
    let place = guest_with(Limits { running: 1, ..Limits::STANDARD }).await;
    let mut client = place.client.clone();
    place.leave_running(sh("a", UNTIL_RELEASED)).await;
    assert_eq!(client.exec(sh("b", "true")).await.unwrap_err().code(), Code::ResourceExhausted);
    fs::write(place.workspace("release"), "").unwrap();
    place.resolve("a", Duration::from_secs(10)).await;
    assert_eq!(place.exec(sh("b", "true")).await.exit_code, 0);
}

#[tokio::test]
async fn files_are_written_once_read_and_listed() {
    let place = guest().await;
    let mut client = place.client.clone();
    let write = WriteFileRequest {
        key: "w".into(),
        path: "dir/a.txt".into(),
        content: "hello".into(),
        ..WriteFileRequest::default()
    };
    let first = client.write_file(write.clone()).await.unwrap().into_inner().record.unwrap();
    assert_eq!((first.state(), first.exit_code), (RecordState::Finished, 0));
    let path = place.workspace("dir/a.txt");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    fs::write(&path, "changed").unwrap();
    assert_eq!(client.write_file(write).await.unwrap().into_inner().record.unwrap(), first);

    let read = ReadFileRequest { path: "dir/a.txt".into(), limit_bytes: 100 };
    assert_eq!(client.read_file(read).await.unwrap().into_inner().content, "changed");
    let list = ListFilesRequest { path: "dir".into(), limit: 10 };
    let listed = client.list_files(list).await.unwrap().into_inner();
    let entry = &listed.entries[0];
    assert_eq!((entry.name.as_str(), entry.kind.as_str(), entry.size_bytes), ("a.txt", "file", 7));
    assert!(entry.modified_at.unwrap().seconds > 1_600_000_000 && !listed.truncated);
}

#[tokio::test]
async fn a_write_with_an_obstacle_is_refused_and_uses_no_key() {
    let place = guest().await;
    let mut client = place.client.clone();
    fs::write(place.workspace("file"), "").unwrap();
    let write = |path: &str| WriteFileRequest { key: "w".into(), path: path.into(), ..Default::default() };
    let refused = client.write_file(write("file/below")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "not a directory"));
    let record = client.write_file(write("below")).await.unwrap().into_inner().record.unwrap();
    assert_eq!((record.state(), record.exit_code), (RecordState::Finished, 0));
    // The record stays, also when a directory later replaces the file.
    fs::remove_file(place.workspace("below")).unwrap();
    fs::create_dir(place.workspace("below")).unwrap();
    let again = client.write_file(write("below")).await.unwrap().into_inner().record.unwrap();
    assert_eq!(again, record);
}

#[tokio::test]
async fn file_errors_have_codes_and_links_are_refused() {
    let place = guest().await;
    let mut client = place.client.clone();
    fs::write(place.workspace("big"), vec![0; 200]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", place.workspace("link")).unwrap();
    for (path, code) in [
        ("none", Code::NotFound),
        ("/etc/passwd", Code::InvalidArgument),
        ("../x", Code::InvalidArgument),
        ("link", Code::FailedPrecondition),
        ("big", Code::OutOfRange),
    ] {
        let read = ReadFileRequest { path: path.into(), limit_bytes: 100 };
        assert_eq!(client.read_file(read).await.unwrap_err().code(), code, "{path}");
    }
}
