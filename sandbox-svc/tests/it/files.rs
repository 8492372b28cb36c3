//! Files of a sandbox: written once by key, read and listed below its roots alone.

use std::fs;

use bytes::Bytes;
use sandbox_svc::testing::{
    Error,
    domain::exec::{Call, Write},
    guest,
};
use svc_core::error::{ErrorKind, Invalid, ServiceError};

use crate::{
    execs::{key, run},
    plane::Plane,
};

#[tokio::test]
async fn paths_out_of_a_sandbox_are_refused_and_change_nothing() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let account = sandbox.owner.unwrap().account;
    let workspace = plane.files(&sandbox).join("workspace");
    let outside = plane.base.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(&outside, workspace.join("link")).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), workspace.join("file")).unwrap();
    let up = "../".repeat(20) + outside.to_str().unwrap().trim_start_matches('/');
    let direct = outside.display().to_string();
    for (number, path) in
        ["link/secret", "file", &format!("{up}/secret"), &format!("{direct}/secret")].into_iter().enumerate()
    {
        let read = plane.replica.files.read(account, sandbox.id, path.to_owned()).await;
        assert!(matches!(read, Err(Error::Guest(guest::Error::Refused { .. }))), "{path}: {read:?}");
        let write = Write { path: path.to_owned(), content: "changed".into(), mode: 0 };
        let key = key(&format!("write{number}"));
        match plane.replica.execs.call(account, sandbox.id, key, Call::Write(write)).await {
            // A link at the path itself is replaced, never followed.
            Ok(record) => assert!(path == "file" || record.outcome.unwrap().exit_code != 0, "{path}"),
            Err(error) => assert!(matches!(error, Error::Guest(guest::Error::Refused { .. })), "{error:?}"),
        }
    }
    for path in ["link", "..", &up, &direct] {
        let listed = plane.replica.files.list(account, sandbox.id, path.to_owned()).await;
        assert!(matches!(listed, Err(Error::Guest(guest::Error::Refused { .. }))), "{path}: {listed:?}");
    }
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test]
async fn a_path_that_the_guest_refuses_is_named_as_the_field() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let account = sandbox.owner.unwrap().account;
    let long = "a".repeat(256);
    for (path, problem) in [
        (long.as_str(), "has a name of more than 255 bytes"),
        ("/etc/passwd", "must be under /workspace, /tmp or /home/user"),
    ] {
        let write = Call::Write(Write { path: path.to_owned(), content: Bytes::new(), mode: 0 });
        let refusals = [
            plane.replica.files.read(account, sandbox.id, path.to_owned()).await.map(drop),
            plane.replica.files.list(account, sandbox.id, path.to_owned()).await.map(drop),
            plane.replica.execs.call(account, sandbox.id, key("w"), write).await.map(drop),
        ];
        for refusal in refusals {
            let refused = refusal.unwrap_err().public();
            assert_eq!((refused.kind, &*refused.reason), (ErrorKind::InvalidArgument, "INVALID_ARGUMENT"));
            assert_eq!(refused.invalid, [Invalid::new("path", problem)]);
        }
    }
}

#[tokio::test]
async fn files_are_written_once_and_read_back() {
    let plane = Plane::start().await;
    let sandbox = plane.running(plane.owner()).await;
    let account = sandbox.owner.unwrap().account;
    let write = Call::Write(Write { path: "dir/file".into(), content: "hello".into(), mode: 0 });
    let first = plane.replica.execs.call(account, sandbox.id, key("w"), write.clone()).await.unwrap();
    assert_eq!(first.outcome.as_ref().unwrap().exit_code, 0);
    assert_eq!(plane.replica.files.read(account, sandbox.id, "dir/file".into()).await.unwrap(), "hello");
    run(&plane, &sandbox, "a", &["sh", "-c", "echo changed > dir/file"]).await.unwrap();
    assert_eq!(plane.replica.execs.call(account, sandbox.id, key("w"), write).await.unwrap(), first);
    assert_eq!(plane.replica.files.read(account, sandbox.id, "dir/file".into()).await.unwrap(), "changed\n");
    let listing = plane.replica.files.list(account, sandbox.id, "dir".into()).await.unwrap();
    let names: Vec<_> = listing.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!((names, listing.truncated), (vec!["file"], false));
    let missing = plane.replica.files.read(account, sandbox.id, "none".into()).await;
    assert!(matches!(missing, Err(Error::Guest(guest::Error::Refused { .. }))), "{missing:?}");
}
