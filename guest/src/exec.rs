//! Runs one command until it exits: without a shell, in its own process group, with bounded output.
//!
//! The call ends when the command's own process exits. Background processes that it started keep running and
//! their output is discarded, so that a server started by one exec can be used by the next. A timeout or a
//! cancel kills the command and its descendants.

use std::{
    collections::BTreeMap,
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    process::{Child, ChildStdin},
    sync::oneshot,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    kill,
    limits::PIPE_BYTES,
    records::{Outcome, Output},
};

/// Name of the environment variable that marks the processes of a command. Descendants inherit it, so the
/// guest also finds those with a parent that has exited.
pub(crate) const MARK: &str = "STEWARD_EXEC";

/// Exit code of a program that was not found, as shells report it.
const NOT_FOUND: i32 = 127;
/// Exit code of a command that could not be started for another reason, as shells report it.
const NOT_STARTED: i32 = 126;

#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// The program, looked up in the PATH of `env`.
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    /// The whole environment, to which only [`MARK`] is added: the command inherits no variable of the guest.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: PathBuf,
    pub(crate) stdin: Bytes,
    /// The command is killed after this time.
    pub(crate) timeout: Duration,
    /// Maximum bytes kept of each output stream.
    pub(crate) stream_bytes: usize,
}

/// Runs `command` until it exits, exceeds its timeout, or `canceled` fires. Readers that keep discarding the
/// output of background processes run on `tasks`.
pub(crate) async fn run(command: Command, canceled: &CancellationToken, tasks: &TaskTracker) -> Outcome {
    let started = Instant::now();
    let mark = next_mark();
    let (mut child, stdout, stderr) = match spawn(&command, &mark) {
        Ok(spawned) => spawned,
        Err((code, problem)) => return Outcome::failure(code, &problem),
    };
    if let Some(stdin) = child.stdin.take() {
        tasks.spawn(feed(stdin, command.stdin));
    }
    let stdout = capture(stdout, command.stream_bytes, tasks);
    let stderr = capture(stderr, command.stream_bytes, tasks);

    let (status, timed_out) = tokio::select! {
        biased;
        status = child.wait() => (status, false),
        () = canceled.cancelled() => (end(&mut child, &mark).await, false),
        () = tokio::time::sleep(command.timeout) => (end(&mut child, &mark).await, true),
    };
    let (stdout, stderr) = (stdout.ended().await, stderr.ended().await);
    let exit_code = match status {
        Ok(status) => exit_code(status),
        // `wait` should not fail for a child of this process. If it does, the command has run, but its exit
        // code is unknown.
        Err(error) => {
            return Outcome {
                stdout,
                ..Outcome::failure(NOT_STARTED, &format!("wait for command: {error}"))
            };
        }
    };
    Outcome { exit_code, stdout, stderr, timed_out, duration: started.elapsed() }
}

/// Returns a mark that no other running command has. It contains the guest's process id, because guests that
/// run without containers, as in tests, see the same `/proc`.
fn next_mark() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

type Spawned = (Child, pipe::Receiver, pipe::Receiver);

fn spawn(command: &Command, mark: &str) -> Result<Spawned, (i32, String)> {
    // Spawning reports the same error for a missing directory and a missing program.
    if !command.cwd.is_dir() {
        return Err((NOT_STARTED, format!("{}: no such directory", command.cwd.display())));
    }
    start(command, mark).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => (NOT_FOUND, format!("{}: command not found", command.program)),
        _ => (NOT_STARTED, format!("{}: {error}", command.program)),
    })
}

fn start(command: &Command, mark: &str) -> io::Result<Spawned> {
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let stdin = if command.stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
    let child = tokio::process::Command::new(&command.program)
        .args(&command.arguments)
        .env_clear()
        .envs(&command.env)
        .env(MARK, mark)
        .current_dir(&command.cwd)
        .process_group(0)
        .stdin(stdin)
        .stdout(stdout_end)
        .stderr(stderr_end)
        .spawn()?;
    Ok((child, stdout, stderr))
}

/// Makes a pipe that this process reads without blocking. `Child`'s own streams have no read without waiting
/// that distinguishes an empty pipe from a closed one.
fn pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((pipe::Receiver::from_owned_fd(reader.into())?, writer.into()))
}

/// Writes the standard input. An error means that the command does not read it, which is not a failure.
async fn feed(mut pipe: ChildStdin, bytes: Bytes) {
    if pipe.write_all(&bytes).await.is_ok() {
        let _closed_on_drop = pipe.shutdown().await;
    }
}

/// Kills the command and its descendants, and waits for it.
async fn end(child: &mut Child, mark: &str) -> io::Result<ExitStatus> {
    // The child has not been waited for, so the kernel cannot have given its id to another process.
    if let Some(root) = child.id() {
        let entry = format!("{MARK}={mark}");
        let _done_or_runtime_stops = tokio::task::spawn_blocking(move || kill::tree(root, &entry)).await;
    }
    child.wait().await
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Handle on the task that reads one output stream.
struct Capture {
    ended: oneshot::Sender<()>,
    output: oneshot::Receiver<Output>,
}

fn capture(pipe: pipe::Receiver, limit: usize, tasks: &TaskTracker) -> Capture {
    let (ended, on_end) = oneshot::channel();
    let (send, output) = oneshot::channel();
    tasks.spawn(read(pipe, limit, on_end, send));
    Capture { ended, output }
}

impl Capture {
    /// Tells the reader that the command has exited, and returns the output.
    async fn ended(self) -> Output {
        // The send fails if the reader has already found the end of the stream; the reader then sends the
        // output without this signal.
        let _ = self.ended.send(());
        self.output.await.unwrap_or_default()
    }
}

/// Reads until the command exits or the pipe is closed, sends the output, then discards the output of
/// background processes.
async fn read(
    mut pipe: pipe::Receiver,
    limit: usize,
    mut on_end: oneshot::Receiver<()>,
    output: oneshot::Sender<Output>,
) {
    let mut kept = BoundedOutput { bytes: BytesMut::new(), truncated: false, limit };
    let mut chunk = vec![0_u8; 16 << 10];
    let open = loop {
        tokio::select! {
            biased;
            read = pipe.read(&mut chunk) => match read {
                Ok(n @ 1..) => kept.push(&chunk[..n]),
                Ok(0) | Err(_) => break false,
            },
            _ = &mut on_end => {
                drain(&pipe, &mut kept, &mut chunk);
                break true;
            }
        }
    };
    // The receiver is gone only if the runtime stops.
    let _ = output.send(Output { bytes: kept.bytes.freeze(), truncated: kept.truncated });
    while open && matches!(pipe.read(&mut chunk).await, Ok(1..)) {}
}

/// Reads the bytes that the exited command left in the pipe, until the pipe is empty, or at most
/// [`PIPE_BYTES`], because background processes may keep writing. Calls the system's `read` directly, because
/// the runtime may not have learned yet that the pipe is readable.
fn drain(pipe: &pipe::Receiver, kept: &mut BoundedOutput, chunk: &mut [u8]) {
    let mut drained = 0;
    while drained < PIPE_BYTES {
        match rustix::io::read(pipe, &mut *chunk) {
            Ok(n @ 1..) => {
                kept.push(&chunk[..n]);
                drained += n;
            }
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

struct BoundedOutput {
    bytes: BytesMut,
    truncated: bool,
    limit: usize,
}

impl BoundedOutput {
    fn push(&mut self, chunk: &[u8]) {
        let room = self.limit - self.bytes.len();
        self.truncated |= chunk.len() > room;
        self.bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        Command {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            cwd: "/tmp".into(),
            stdin: Bytes::new(),
            timeout: Duration::from_secs(20),
            stream_bytes: 100_000,
        }
    }

    async fn run(command: Command) -> Outcome {
        super::run(command, &CancellationToken::new(), &TaskTracker::new()).await
    }

    fn alive(mark: &str) -> bool {
        kill::marked(mark).next().is_some()
    }

    #[tokio::test]
    async fn both_outputs_and_the_exit_code_are_returned() {
        let outcome = run(sh("echo out; echo err >&2; exit 3")).await;
        assert_eq!((outcome.exit_code, outcome.timed_out), (3, false));
        assert_eq!((&outcome.stdout.bytes[..], &outcome.stderr.bytes[..]), (&b"out\n"[..], &b"err\n"[..]));
    }

    #[tokio::test]
    async fn arguments_reach_the_program_untouched_by_any_shell() {
        let command =
            Command { program: "printf".into(), arguments: vec!["%s|".into(), "$HOME; *".into()], ..sh("") };
        assert_eq!(&run(command).await.stdout.bytes[..], b"$HOME; *|");
    }

    #[tokio::test]
    async fn the_environment_is_the_given_one() {
        let outcome = run(Command { program: "env".into(), arguments: vec![], ..sh("") }).await;
        let text = String::from_utf8(outcome.stdout.bytes.to_vec()).unwrap();
        let names: Vec<_> =
            text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert_eq!(names, ["PATH", MARK]);
    }

    #[tokio::test]
    async fn standard_input_is_fed_and_closed() {
        let stdin = Bytes::from(vec![b'x'; 300_000]);
        let outcome = run(Command { stdin, ..sh("wc -c") }).await;
        assert_eq!(String::from_utf8_lossy(&outcome.stdout.bytes).trim(), "300000");
    }

    #[tokio::test]
    async fn a_command_that_ignores_its_input_ends() {
        let stdin = Bytes::from(vec![b'x'; 300_000]);
        assert_eq!(run(Command { stdin, ..sh("exit 0") }).await.exit_code, 0);
    }

    #[tokio::test]
    async fn output_over_the_limit_is_drained_and_cut() {
        let outcome =
            run(Command { stream_bytes: 10, ..sh("head -c 3000000 /dev/zero; echo done >&2") }).await;
        assert_eq!((outcome.stdout.bytes.len(), outcome.stdout.truncated), (10, true));
        assert_eq!((&outcome.stderr.bytes[..], outcome.stderr.truncated), (&b"done\n"[..], false));
    }

    #[tokio::test]
    async fn everything_an_ended_command_wrote_is_kept() {
        for _ in 0..50 {
            assert_eq!(run(sh("head -c 60000 /dev/zero")).await.stdout.bytes.len(), 60_000);
        }
    }

    #[tokio::test]
    async fn a_missing_program_and_a_missing_directory_are_outcomes() {
        let missing = run(Command { program: "no-such-program".into(), ..sh("") }).await;
        assert_eq!(missing.exit_code, 127);
        let nowhere = run(Command { cwd: "/no/such/directory".into(), ..sh("true") }).await;
        assert_eq!(nowhere.exit_code, 126);
        assert!(String::from_utf8_lossy(&nowhere.stderr.bytes).contains("no such directory"));
    }

    #[tokio::test]
    async fn a_background_process_does_not_hold_the_command_open() {
        let started = Instant::now();
        let outcome = run(sh("sleep 5 & echo started")).await;
        assert_eq!(&outcome.stdout.bytes[..], b"started\n");
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    /// Shell script that starts one child in its own process group, one in a session of its own, and one
    /// without a living parent.
    const FAMILY: &str =
        "echo $STEWARD_EXEC; sleep 61 & setsid sleep 62 & (setsid sh -c 'sleep 63 & sleep 64' &) ; sleep 65";

    fn assert_all_dead(outcome: &Outcome) {
        let mark = String::from_utf8(outcome.stdout.bytes.to_vec()).unwrap();
        let entry = format!("{MARK}={}", mark.trim());
        assert!(!alive(&entry), "descendants survive");
    }

    #[tokio::test]
    async fn a_timeout_kills_the_command_and_every_descendant() {
        let outcome = run(Command { timeout: Duration::from_millis(700), ..sh(FAMILY) }).await;
        assert_eq!((outcome.exit_code, outcome.timed_out), (137, true));
        assert_all_dead(&outcome);
    }

    #[tokio::test]
    async fn a_cancel_kills_the_command_and_every_descendant() {
        let canceled = CancellationToken::new();
        let tasks = TaskTracker::new();
        let soon = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            canceled.cancel();
        };
        let (outcome, ()) = tokio::join!(super::run(sh(FAMILY), &canceled, &tasks), soon);
        assert_eq!((outcome.exit_code, outcome.timed_out), (137, false));
        assert_all_dead(&outcome);
    }
}
