//! Reads and lists the files of a sandbox. A write is a keyed call: [`super::execs`].

use bytes::Bytes;
use svc_core::id::{AccountId, SandboxId};

use super::Deps;
use crate::{
    client::guest::{self, Guest},
    domain::{
        exec::CONTENT_BYTES,
        files::Listing,
        sandbox::{Sandbox, State},
    },
    error::{Error, Result},
};

/// Maximum entries of a listing, because the answer is one message.
const MAX_ENTRIES: u32 = 1_000;

/// Files of sandboxes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Files {
    pub deps: Deps,
}

impl Files {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::NotRunning`] unless the sandbox runs; [`Error::Guest`] if the guest refuses or does not
    /// answer.
    pub async fn read(&self, account: AccountId, id: SandboxId, path: String) -> Result<Bytes> {
        let (sandbox, guest) = self.connect(account, id).await?;
        self.checked(&sandbox, guest.read_file(path, CONTENT_BYTES).await).await
    }

    /// Lists a directory's first entries by name.
    ///
    /// # Errors
    /// The errors of [`Self::read`].
    pub async fn list(&self, account: AccountId, id: SandboxId, path: String) -> Result<Listing> {
        let (sandbox, guest) = self.connect(account, id).await?;
        self.checked(&sandbox, guest.list_files(path, MAX_ENTRIES).await).await
    }

    async fn connect(&self, account: AccountId, id: SandboxId) -> Result<(Sandbox, Guest)> {
        let sandbox = self.deps.find(account, id).await?;
        if sandbox.state != State::Running {
            return Err(Error::NotRunning(sandbox.state));
        }
        let guest = self.deps.engine.guest(&sandbox).await?;
        Ok((sandbox, guest))
    }

    /// Returns the guest's answer. If the guest did not answer, drops the cached connection to it.
    async fn checked<T>(&self, sandbox: &Sandbox, answer: Result<T, guest::Error>) -> Result<T> {
        if let Err(guest::Error::Unreachable(_) | guest::Error::TimedOut) = &answer {
            self.deps.engine.of(sandbox)?.forget_guest(sandbox.id).await;
        }
        Ok(answer?)
    }
}
