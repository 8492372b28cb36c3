//! Reading what is in a sandbox. (Writing is a keyed call: [`super::execs`].)

use bytes::Bytes;
use chrono::{DateTime, Utc};
use steward_proto::guest::v1::FileEntry;
use svc_core::id::{AccountId, SandboxId};

use super::{Context, lifecycle::find};
use crate::{
    client::guest::{self, Guest},
    domain::{
        exec::CONTENT_BYTES,
        sandbox::{Sandbox, State},
    },
    error::{Error, Result},
};

/// Most entries of a listing.
const ENTRIES: u32 = 1_000;
/// Longest name of a file, in bytes of UTF-8 after replacement of what is none.
const NAME_BYTES: usize = 255 * 3;

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// A directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Size in bytes.
    pub size_bytes: i64,
    /// Permission bits.
    pub mode: u32,
    /// Last change.
    pub modified_at: Option<DateTime<Utc>>,
}

/// Reads a file.
///
/// # Errors
/// [`Error::Guest`] says why not.
pub async fn read(ctx: &Context, account: AccountId, id: SandboxId, path: String) -> Result<Bytes> {
    let sandbox = find(ctx, account, id).await?;
    let guest = reach(ctx, &sandbox).await?;
    answered(ctx, &sandbox, guest.read_file(path, CONTENT_BYTES).await).await
}

/// Lists a directory: its first entries by name, and whether there are more.
///
/// # Errors
/// [`Error::Guest`] says why not.
pub async fn list(
    ctx: &Context,
    account: AccountId,
    id: SandboxId,
    path: String,
) -> Result<(Vec<Entry>, bool)> {
    let sandbox = find(ctx, account, id).await?;
    let guest = reach(ctx, &sandbox).await?;
    let (entries, more) = answered(ctx, &sandbox, guest.list_files(path, ENTRIES).await).await?;
    let entries = entries.into_iter().map(entry).collect::<Option<_>>();
    Ok((entries.ok_or(guest::Error::Nonsense("a name that no file has"))?, more))
}

async fn reach(ctx: &Context, sandbox: &Sandbox) -> Result<Guest> {
    match (&sandbox.container, sandbox.state) {
        (Some(container), State::Running) => {
            Ok(ctx.served_for(sandbox)?.guest(sandbox.id, container).await?)
        }
        (_, state) => Err(Error::NotRunning(state)),
    }
}

async fn answered<T>(ctx: &Context, sandbox: &Sandbox, answer: Result<T, guest::Error>) -> Result<T> {
    if let Err(guest::Error::Unreachable(_) | guest::Error::TimedOut) = &answer {
        ctx.served_for(sandbox)?.forget_guest(sandbox.id).await;
    }
    Ok(answer?)
}

/// An entry as it goes on; nothing if no file can have that name.
fn entry(entry: FileEntry) -> Option<Entry> {
    if entry.name.len() > NAME_BYTES || entry.name.contains(['/', '\0']) {
        return None;
    }
    let kind = match entry.kind.as_str() {
        "file" => Kind::File,
        "directory" => Kind::Directory,
        "symlink" => Kind::Symlink,
        _ => Kind::Other,
    };
    let modified_at =
        entry.modified_at.and_then(|at| DateTime::from_timestamp(at.seconds, at.nanos.try_into().ok()?));
    Some(Entry {
        name: entry.name,
        kind,
        size_bytes: entry.size_bytes,
        mode: entry.mode & 0o7777,
        modified_at,
    })
}
