//! Converts between the contract's types and the domain's. A conversion of a request may fail and then names
//! the wrong field; a conversion of a response cannot fail.

use std::time::Duration;

use steward_proto::sandbox::v1 as proto;
use svc_core::{
    error::Invalid,
    id::SessionId,
    wire::grpc::{duration, parse_duration, timestamp},
};

use crate::{
    app::sandboxes::View,
    domain::{
        exec::{CONTENT_BYTES, Command, DEFAULT_TIMEOUT, ExecState, Record},
        files::{Entry, EntryKind},
        sandbox::{Cause, Filter, Sandbox, State},
    },
};

/// Longest wait of one call; a longer wait is shortened to this.
const MAX_WAIT: Duration = Duration::from_secs(60);

pub(super) fn wait(requested: Option<prost_types::Duration>) -> Result<Duration, Invalid> {
    Ok(parse_duration("wait", requested)?.unwrap_or_default().min(MAX_WAIT))
}

impl TryFrom<&proto::ListSandboxesRequest> for Filter {
    type Error = Invalid;

    fn try_from(request: &proto::ListSandboxesRequest) -> Result<Self, Invalid> {
        let session = Some(request.session_id.as_str()).filter(|id| !id.is_empty());
        let session = session.map(|id| SessionId::parse("session_id", id)).transpose()?;
        let status = request.status();
        let state = State::ALL.into_iter().find(|state| proto::SandboxState::from(*state) == status);
        Ok(Self { session, state })
    }
}

impl TryFrom<proto::ExecRequest> for Command {
    type Error = Invalid;

    fn try_from(request: proto::ExecRequest) -> Result<Self, Invalid> {
        let command = Self {
            argv: request.argv,
            stdin: request.stdin,
            cwd: request.cwd,
            env: request.env.into_iter().collect(),
            timeout: parse_duration("timeout", request.timeout)?.unwrap_or(DEFAULT_TIMEOUT),
        };
        command.check()?;
        Ok(command)
    }
}

impl From<View> for proto::Sandbox {
    fn from(View { sandbox, position }: View) -> Self {
        Self { queue_position: i32::try_from(position).unwrap_or(i32::MAX), ..sandbox.into() }
    }
}

impl From<Sandbox> for proto::Sandbox {
    fn from(sandbox: Sandbox) -> Self {
        Self {
            sandbox_id: sandbox.id.to_string(),
            session_id: sandbox.owner.map(|owner| owner.session.to_string()).unwrap_or_default(),
            state: proto::SandboxState::from(sandbox.state).into(),
            queue_position: 0,
            cause: sandbox.cause.map(Cause::name).unwrap_or_default().to_owned(),
            image_digest: sandbox.container.map(|container| container.image).unwrap_or_default(),
            created_at: Some(timestamp(sandbox.created_at)),
            deadline_at: Some(timestamp(sandbox.deadline_at)).filter(|_| !sandbox.state.is_final()),
            warm: sandbox.warm,
            engine_id: sandbox.engine,
        }
    }
}

impl From<State> for proto::SandboxState {
    fn from(state: State) -> Self {
        match state {
            State::Requested => Self::Requested,
            State::Creating => Self::Creating,
            State::Running => Self::Running,
            State::Deleting => Self::Deleting,
            State::Gone => Self::Gone,
            State::Failed => Self::Failed,
        }
    }
}

impl From<Record> for proto::ExecRecord {
    fn from(record: Record) -> Self {
        let state = match record.state {
            ExecState::Running => proto::ExecState::Running,
            ExecState::Finished => proto::ExecState::Finished,
            ExecState::Abandoned => proto::ExecState::Abandoned,
            ExecState::InDoubt => proto::ExecState::InDoubt,
        };
        let named = Self { key: record.key, state: state.into(), ..Self::default() };
        let Some(outcome) = record.outcome else { return named };
        let (stdout, stdout_cut) = text(&outcome.stdout);
        let (stderr, stderr_cut) = text(&outcome.stderr);
        Self {
            exit_code: outcome.exit_code,
            stdout,
            stderr,
            stdout_truncated: outcome.stdout_truncated || stdout_cut,
            stderr_truncated: outcome.stderr_truncated || stderr_cut,
            timed_out: outcome.timed_out,
            duration: Some(duration(outcome.duration)),
            ..named
        }
    }
}

/// Returns output as text of at most [`CONTENT_BYTES`], and whether it was cut. The text may be longer than
/// the output, because the character that replaces an invalid byte has three bytes.
fn text(bytes: &[u8]) -> (String, bool) {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    let whole = text.len();
    text.truncate(text.floor_char_boundary(CONTENT_BYTES));
    let cut = text.len() < whole;
    (text, cut)
}

impl From<Entry> for proto::FileEntry {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind {
            EntryKind::File => proto::FileKind::File,
            EntryKind::Directory => proto::FileKind::Directory,
            EntryKind::Symlink => proto::FileKind::Symlink,
            EntryKind::Other => proto::FileKind::Unspecified,
        };
        Self {
            name: entry.name,
            kind: kind.into(),
            size_bytes: entry.size_bytes,
            mode: entry.mode,
            modified_at: entry.modified_at.map(timestamp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_grows_by_replacement_is_cut() {
        assert_eq!(text(b"plain"), ("plain".to_owned(), false));
        let (replaced, cut) = text(&vec![0xff; CONTENT_BYTES]);
        assert!(replaced.len() <= CONTENT_BYTES && replaced.chars().all(|c| c == '\u{fffd}') && cut);
    }

    #[test]
    fn waits_are_bounded_and_not_negative() {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        assert_eq!(wait(None).unwrap(), Duration::ZERO);
        assert_eq!(wait(seconds(600)).unwrap(), MAX_WAIT);
        assert_eq!(wait(seconds(-1)).unwrap_err().field, "wait");
    }
}
