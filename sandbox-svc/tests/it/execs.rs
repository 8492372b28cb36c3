//! Tests keyed calls: each runs at most once, also if a replica, an answer or a connection is lost.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::{Response, body::Frame, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sandbox_svc::testing::{
    Error,
    domain::{
        exec::{CONTENT_BYTES, Call, CallId, Command, ExecState, Key, Record, ResolveOptions},
        sandbox::{Cause, Sandbox, State},
    },
    engine::ContainerEngine,
    guest::{self, Keyed},
    store,
};
use svc_core::id::AccountId;
use tokio::net::UnixListener;

use crate::plane::Plane;

fn command(argv: &[&str]) -> Call {
    Call::Command(Command {
        argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
        stdin: Bytes::new(),
        cwd: String::new(),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        timeout: Duration::from_secs(20),
    })
}

pub(crate) fn key(text: &str) -> Key {
    Key::from(text.to_owned())
}

pub(crate) async fn run(
    plane: &Plane,
    sandbox: &Sandbox,
    name: &str,
    argv: &[&str],
) -> Result<Record, Error> {
    plane.replica.execs.call(sandbox.owner.unwrap().account, sandbox.id, key(name), command(argv)).await
}

const CANCEL: ResolveOptions = ResolveOptions { wait: Duration::from_secs(10), cancel: true };

async fn ask(plane: &Plane, sandbox: &Sandbox, name: &str, options: ResolveOptions) -> Result<Record, Error> {
    plane.replica.execs.resolve(sandbox.owner.unwrap().account, sandbox.id, key(name), options).await
}

async fn resolve(plane: &Plane, sandbox: &Sandbox, name: &str, wait: Duration) -> Result<Record, Error> {
    ask(plane, sandbox, name, ResolveOptions { wait, cancel: false }).await
}

/// Journals an intent, as a replica does that dies before it sends the call.
async fn intend(plane: &Plane, sandbox: &Sandbox, name: &str, call: &Call) {
    let mut db = plane.replica.deps.pool.acquire().await.unwrap();
    let owner = sandbox.owner.unwrap();
    let now = plane.now();
    assert!(
        store::execs::insert(
            &mut db,
            CallId { owner, sandbox: sandbox.id, key: name },
            Some(&call.hash()),
            now
        )
        .await
        .unwrap()
    );
}

#[tokio::test]
async fn a_command_runs_and_its_outcome_is_journaled() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let record = run(&plane, &sandbox, "a", &["sh", "-c", "echo out; echo err >&2; exit 3"]).await.unwrap();
    let outcome = record.outcome.as_ref().unwrap();
    assert_eq!((record.state, outcome.exit_code), (ExecState::Finished, 3));
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
    // The journal returns the outcome without the guest.
    plane.engine.exit(&plane.engine.containers()[0].id);
    assert_eq!(
        run(&plane, &sandbox, "a", &["sh", "-c", "echo out; echo err >&2; exit 3"]).await.unwrap(),
        record
    );
    assert_eq!(resolve(&plane, &sandbox, "a", Duration::ZERO).await.unwrap(), record);
}

#[tokio::test]
async fn a_repeated_key_runs_once_and_refuses_another_call() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let count = &["sh", "-c", "echo x >> ran; wc -l < ran"];
    let asked = futures::future::join_all((0..8).map(|_| run(&plane, &sandbox, "a", count))).await;
    let first = asked[0].as_ref().unwrap();
    assert!(asked.iter().all(|record| record.as_ref().unwrap() == first));
    assert_eq!(first.outcome.as_ref().unwrap().stdout, b"1\n");
    let other = run(&plane, &sandbox, "a", &["true"]).await;
    assert!(matches!(other, Err(Error::KeyReused)), "{other:?}");
}

#[tokio::test]
async fn an_unsent_intent_is_sent_by_a_repeated_call() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let argv = &["sh", "-c", "echo x >> ran; cat ran"];
    intend(&plane, &sandbox, "a", &command(argv)).await;
    let record = run(&plane, &sandbox, "a", argv).await.unwrap();
    assert_eq!(record.outcome.unwrap().stdout, b"x\n");
}

#[tokio::test]
async fn an_unsent_intent_is_abandoned_when_it_is_resolved() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let argv = &["sh", "-c", "touch ran"];
    intend(&plane, &sandbox, "a", &command(argv)).await;
    assert_eq!(resolve(&plane, &sandbox, "a", Duration::ZERO).await.unwrap().state, ExecState::Abandoned);
    // The call arrives later and does not run.
    assert_eq!(run(&plane, &sandbox, "a", argv).await.unwrap().state, ExecState::Abandoned);
    assert!(!plane.files(&sandbox).join("workspace/ran").exists());
}

#[tokio::test]
async fn an_unused_key_is_abandoned_when_it_is_resolved() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    assert_eq!(resolve(&plane, &sandbox, "a", Duration::ZERO).await.unwrap().state, ExecState::Abandoned);
    assert_eq!(run(&plane, &sandbox, "a", &["touch", "ran"]).await.unwrap().state, ExecState::Abandoned);
    assert!(!plane.files(&sandbox).join("workspace/ran").exists());
}

#[tokio::test]
async fn a_call_of_a_dead_replica_is_awaited_by_another() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let until_allowed = "touch started; while [ ! -e allowed ]; do sleep 0.01; done; echo done";
    let workspace = plane.files(&sandbox).join("workspace");
    // A replica sends the call and stops before the answer.
    let replica = plane.another().await;
    let account = sandbox.owner.unwrap().account;
    let call = replica.execs.call(account, sandbox.id, key("a"), command(&["sh", "-c", until_allowed]));
    let started = async {
        while !workspace.join("started").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        answer = call => panic!("answered: {answer:?}"),
        () = started => replica.deps.lifecycle.stop(),
    }
    replica.deps.lifecycle.run_until_stopped(Duration::from_millis(50)).await;

    assert_eq!(resolve(&plane, &sandbox, "a", Duration::ZERO).await.unwrap().state, ExecState::Running);
    fs::write(workspace.join("allowed"), "").unwrap();
    let record = resolve(&plane, &sandbox, "a", Duration::from_secs(20)).await.unwrap();
    assert_eq!((record.state, record.outcome.unwrap().stdout), (ExecState::Finished, b"done\n".to_vec()));
}

#[tokio::test]
async fn a_canceled_command_is_killed_with_its_descendants() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let workspace = plane.files(&sandbox).join("workspace");
    let script = "(sleep 1; touch survived) & touch started; sleep 20";
    let argv = ["sh", "-c", script];
    let call = run(&plane, &sandbox, "a", &argv);
    let cancel = async {
        while !workspace.join("started").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ask(&plane, &sandbox, "a", CANCEL).await.unwrap()
    };
    let (called, canceled) = tokio::join!(call, cancel);
    let outcome = canceled.outcome.as_ref().unwrap();
    assert_eq!((canceled.state, outcome.exit_code, outcome.timed_out), (ExecState::Finished, 137, false));
    assert_eq!(called.unwrap(), canceled);
    // A repeated cancel succeeds, and the outcome stays the same.
    assert_eq!(ask(&plane, &sandbox, "a", CANCEL).await.unwrap(), canceled);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!workspace.join("survived").exists());
}

#[tokio::test]
async fn a_call_canceled_before_it_arrives_never_runs() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let argv = &["sh", "-c", "touch ran"];
    intend(&plane, &sandbox, "a", &command(argv)).await;
    assert_eq!(ask(&plane, &sandbox, "a", CANCEL).await.unwrap().state, ExecState::Abandoned);
    assert_eq!(run(&plane, &sandbox, "a", argv).await.unwrap().state, ExecState::Abandoned);
    assert!(!plane.files(&sandbox).join("workspace/ran").exists());
}

#[tokio::test]
async fn a_caller_that_disconnects_does_not_end_the_call() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let until_allowed = "touch started; while [ ! -e allowed ]; do sleep 0.01; done; echo done";
    let workspace = plane.files(&sandbox).join("workspace");
    let started = async {
        while !workspace.join("started").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let argv = ["sh", "-c", until_allowed];
    tokio::select! {
        answer = run(&plane, &sandbox, "a", &argv) => panic!("answered: {answer:?}"),
        () = started => {}
    }
    fs::write(workspace.join("allowed"), "").unwrap();
    // The outcome is journaled although no caller waits for it.
    let mut db = plane.replica.deps.pool.acquire().await.unwrap();
    let owner = sandbox.owner.unwrap();
    loop {
        let entry = store::execs::find(&mut db, CallId { owner, sandbox: sandbox.id, key: "a" })
            .await
            .unwrap()
            .unwrap();
        if entry.record.state == ExecState::Finished {
            break assert_eq!(entry.record.outcome.unwrap().stdout, b"done\n");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn running_calls_of_a_removed_sandbox_are_in_doubt() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    intend(&plane, &sandbox, "a", &command(&["true"])).await;
    plane.delete(&sandbox).await;
    // The call is in doubt only once the container's absence is confirmed.
    assert_eq!(resolve(&plane, &sandbox, "a", Duration::ZERO).await.unwrap().state, ExecState::Running);
    plane.remove_all().await;
    assert_eq!(resolve(&plane, &sandbox, "a", Duration::ZERO).await.unwrap().state, ExecState::InDoubt);
    assert_eq!(run(&plane, &sandbox, "a", &["true"]).await.unwrap().state, ExecState::InDoubt);
    let new = run(&plane, &sandbox, "b", &["true"]).await;
    assert!(matches!(new, Err(Error::NotRunning(_))), "{new:?}");
}

#[tokio::test]
async fn resolving_waits_for_the_end_of_the_sandbox() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    intend(&plane, &sandbox, "a", &command(&["true"])).await;
    plane.delete(&sandbox).await;
    let begun = Instant::now();
    let early = resolve(&plane, &sandbox, "a", Duration::from_millis(300)).await.unwrap();
    assert_eq!(early.state, ExecState::Running);
    assert!(begun.elapsed() >= Duration::from_millis(300), "answered after {:?}", begun.elapsed());
    let removed = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        plane.remove_all().await;
    };
    let begun = Instant::now();
    let (settled, ()) = tokio::join!(resolve(&plane, &sandbox, "a", Duration::from_secs(30)), removed);
    assert_eq!(settled.unwrap().state, ExecState::InDoubt);
    assert!(begun.elapsed() < Duration::from_secs(15), "answered after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stopping_process_ends_every_wait() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let (replica, owner) = (plane.another().await, sandbox.owner.unwrap());
    let pending = plane.create(plane.owner()).await;
    let account = pending.owner.unwrap().account;
    let workspace = plane.files(&sandbox).join("workspace");
    let sleeps = command(&["sh", "-c", "touch started; sleep 25"]);
    let call = plane.replica.execs.call(owner.account, sandbox.id, key("a"), sleeps);
    let waits = Duration::from_secs(60);
    let asked = async {
        while !workspace.join("started").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let options = ResolveOptions { wait: waits, cancel: false };
        let about_a_call = replica.execs.resolve(owner.account, sandbox.id, key("a"), options);
        let about_a_sandbox = replica.sandboxes.get(account, pending.id, waits);
        let stop = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            replica.deps.lifecycle.stop();
        };
        let begun = Instant::now();
        let (call, sandbox, ()) = tokio::join!(about_a_call, about_a_sandbox, stop);
        assert!(matches!(call, Err(Error::Stopping)), "{call:?}");
        assert_eq!(sandbox.unwrap().sandbox.state, State::Requested);
        assert!(begun.elapsed() < Duration::from_secs(5), "answered after {:?}", begun.elapsed());
    };
    tokio::select! {
        answer = call => panic!("answered: {answer:?}"),
        () = asked => {}
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_times_out() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("guest.sock")).unwrap();
    // A process that replaced the guest sends the head of an answer and nothing more.
    let impostor = async {
        let (stream, _) = listener.accept().await.unwrap();
        let endless = service_fn(async |_| {
            let body = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Infallible>>());
            let answer = Response::builder().header("content-type", "application/grpc");
            Ok::<_, Infallible>(answer.body(body).unwrap())
        });
        let connection = http2::Builder::new(TokioExecutor::new());
        connection.serve_connection(TokioIo::new(stream), endless).await.unwrap();
        std::future::pending::<()>().await;
    };
    let asked = async {
        let guest = guest::Guest::connect(directory.path()).await.unwrap();
        let keyed = Keyed { key: "a", instance: "" };
        let resolve = guest.resolve(keyed, ResolveOptions::default());
        tokio::time::timeout(Duration::from_secs(15), resolve).await
    };
    let answer = tokio::select! {
        answer = asked => answer.unwrap(),
        () = impostor => panic!("the impostor ended"),
    };
    assert!(matches!(answer, Err(guest::Error::TimedOut)), "{answer:?}");
}

#[tokio::test]
async fn a_restarted_guest_runs_no_earlier_call() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    intend(&plane, &sandbox, "a", &command(&["touch", "ran"])).await;
    // An operator restarts the container, so the guest's records are lost.
    let container = plane.engine.containers()[0].id.clone();
    plane.engine.exit(&container);
    plane.engine.start(&container).await.unwrap();
    let run_dir = plane.served().run_dirs.path(&sandbox.container.as_ref().unwrap().run_dir);
    while guest::Guest::connect(&run_dir).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    plane.served().forget_guest(sandbox.id).await;
    let answer = run(&plane, &sandbox, "b", &["touch", "ran"]).await;
    assert!(matches!(answer, Err(Error::Guest(guest::Error::OtherInstance))), "{answer:?}");
    // No further call can run in this sandbox, so it is removed and its calls end in doubt.
    let ended = plane.sandbox(sandbox.id).await;
    assert_eq!((ended.state, ended.cause), (State::Deleting, Some(Cause::GuestRestarted)));
    assert_eq!(resolve(&plane, &sandbox, "a", Duration::ZERO).await.unwrap().state, ExecState::Running);
    plane.remove_all().await;
    for key in ["a", "b"] {
        assert_eq!(run(&plane, &sandbox, key, &["touch", "ran"]).await.unwrap().state, ExecState::InDoubt);
        assert_eq!(resolve(&plane, &sandbox, key, Duration::ZERO).await.unwrap().state, ExecState::InDoubt);
    }
    assert!(!plane.files(&sandbox).join("workspace/ran").exists());
    // The session's next sandbox has the same files.
    assert_eq!(plane.running(sandbox.owner.unwrap()).await.volume, sandbox.volume);
}

#[tokio::test]
async fn output_beyond_the_limit_is_cut_and_flagged() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let loud = &["sh", "-c", "head -c 3000000 /dev/zero; head -c 1048576 /dev/zero >&2"];
    let record = run(&plane, &sandbox, "a", loud).await.unwrap();
    let outcome = record.outcome.as_ref().unwrap();
    assert_eq!((outcome.stdout.len(), outcome.stdout_truncated), (CONTENT_BYTES, true));
    assert_eq!((outcome.stderr.len(), outcome.stderr_truncated), (CONTENT_BYTES, false));
    assert_eq!(resolve(&plane, &sandbox, "a", Duration::ZERO).await.unwrap(), record);
}

#[tokio::test]
async fn the_sandbox_of_another_account_runs_and_shows_nothing() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let other = AccountId::new();
    let calls = [
        plane.replica.execs.call(other, sandbox.id, key("a"), command(&["touch", "ran"])).await.map(drop),
        plane.replica.execs.resolve(other, sandbox.id, key("a"), ResolveOptions::default()).await.map(drop),
        plane.replica.files.read(other, sandbox.id, "x".into()).await.map(drop),
        plane.replica.files.list(other, sandbox.id, String::new()).await.map(drop),
    ];
    for call in calls {
        assert!(matches!(call, Err(Error::NotFound)), "{call:?}");
    }
    assert!(!plane.files(&sandbox).join("workspace/ran").exists());
}
