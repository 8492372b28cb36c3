//! Mutations that may carry an idempotency key.

use serde::{Serialize, de::DeserializeOwned};
use svc_core::{
    data::{
        idempotency::{self, Begin, Key, RequestHash, Slot},
        pg::Tx,
    },
    id::AccountId,
};

use crate::error::Result;

/// What makes a request the same request.
#[derive(Debug, Clone)]
pub struct Once {
    /// The RPC, as `steward.registry.v1.AccountService/CreateToken`.
    pub method: &'static str,
    /// The caller's key, if it gave one.
    pub key: Option<Key>,
    /// Hash of what it asked.
    pub hash: RequestHash,
}

/// What [`Once::begin`] says.
#[derive(Debug)]
pub enum Attempt<'a, T> {
    /// Do it, then [`First::finish`].
    First(First<'a>),
    /// It was done before and made these.
    Replay(T),
}

/// The right to take effect.
#[derive(Debug)]
#[must_use = "a key whose effect is not recorded does not protect it"]
pub struct First<'a>(Option<Slot<'a>>);

impl Once {
    /// Begins, first thing in the transaction of the effect. A request without a key is always the first.
    pub async fn begin<T: DeserializeOwned>(
        &self,
        tx: &mut Tx,
        account: Option<AccountId>,
    ) -> Result<Attempt<'_, T>> {
        let Some(key) = &self.key else { return Ok(Attempt::First(First(None))) };
        let request = idempotency::Request { account, method: self.method, key, hash: self.hash };
        Ok(match idempotency::begin(tx, &request).await? {
            Begin::First(slot) => Attempt::First(First(Some(slot))),
            Begin::Replay(ids) => Attempt::Replay(ids),
        })
    }
}

impl First<'_> {
    /// Records what was made, last thing before the commit.
    pub async fn finish<T: Serialize + Sync>(self, tx: &mut Tx, ids: &T) -> Result<()> {
        match self.0 {
            Some(slot) => Ok(slot.finish(tx, ids).await?),
            None => Ok(()),
        }
    }
}
