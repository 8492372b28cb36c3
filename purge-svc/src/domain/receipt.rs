//! The erasure ledger: one receipt an erasure, each bound to the one before it.
//!
//! A receipt's hash covers everything in it, and the hash of its predecessor. So whoever holds the newest hash
//! can tell that no receipt before it was changed, removed, added or moved; a ledger whose *end* was cut off is
//! only found out by comparing with a newest hash that was kept elsewhere.
//!
//! Receipts hold no personal data: the subject is a hash of random bits, owners are services, times are times.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use svc_core::id::PurgeId;

use super::subject::{SubjectHash, SubjectKind, Trigger};

#[cfg(test)]
mod tests;

/// First bytes of what is hashed: another format of receipt can never have the same hash.
const FORMAT: &[u8] = b"steward.purge.receipt.v1";

/// The hash before the first receipt.
pub const GENESIS: [u8; 32] = [0; 32];

/// What one owner of data read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustodianDigest {
    /// The service.
    pub service: String,
    /// SHA-256 of its encoded answer to Verify.
    pub digest: [u8; 32],
    /// When it read, by its database's clock.
    pub verified_at: DateTime<Utc>,
}

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The job.
    pub purge_id: PurgeId,
    /// What kind of subject is gone.
    pub kind: SubjectKind,
    /// Which.
    pub subject_hash: SubjectHash,
    /// Why.
    pub trigger: Trigger,
    /// The last epoch of the job: how often a worker took it.
    pub epoch: i64,
    /// How often a read-back found something.
    pub rounds: u32,
    /// When it was accepted.
    pub requested_at: DateTime<Utc>,
    /// When it was committed.
    pub committed_at: DateTime<Utc>,
    /// What each owner read back, in the order of their names.
    pub custodians: Vec<CustodianDigest>,
}

/// One link of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Place in the ledger, from 1.
    pub seq: i64,
    /// Hash of the receipt before it; [`GENESIS`] for the first.
    pub previous_hash: [u8; 32],
    /// What it says.
    pub body: Body,
    /// SHA-256 over all of that.
    pub hash: [u8; 32],
}

/// The newest link of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its place; 0 while there is none.
    pub seq: i64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl Head {
    /// The head of an empty ledger.
    pub const EMPTY: Self = Self { seq: 0, hash: GENESIS };
}

/// Where a ledger is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A place is missing, or is there twice.
    #[error("receipt {found} stands where {expected} should")]
    Gap {
        /// The place that should come.
        expected: i64,
        /// The one that came.
        found: i64,
    },
    /// A receipt does not follow the one before it.
    #[error("receipt {0} does not follow the one before it")]
    Unlinked(i64),
    /// A receipt says something else than it was sealed with.
    #[error("receipt {0} was changed")]
    Changed(i64),
}

impl Receipt {
    /// Seals `body` as the successor of `head`.
    #[must_use]
    pub fn seal(head: Head, mut body: Body) -> Self {
        body.custodians.sort_by(|one, other| one.service.cmp(&other.service));
        let seq = head.seq + 1;
        let hash = hash(seq, &head.hash, &body);
        Self { seq, previous_hash: head.hash, body, hash }
    }

    /// This receipt as the head of its ledger.
    #[must_use]
    pub const fn as_head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }
}

/// Checks `receipts`, in order, as what follows `head`, and returns the head they lead to.
///
/// # Errors
/// [`Broken`] names the first that is wrong.
pub fn verify<'a>(head: Head, receipts: impl IntoIterator<Item = &'a Receipt>) -> Result<Head, Broken> {
    receipts.into_iter().try_fold(head, |head, receipt| {
        if receipt.seq != head.seq + 1 {
            return Err(Broken::Gap { expected: head.seq + 1, found: receipt.seq });
        }
        if receipt.previous_hash != head.hash {
            return Err(Broken::Unlinked(receipt.seq));
        }
        if receipt.hash != hash(receipt.seq, &receipt.previous_hash, &receipt.body) {
            return Err(Broken::Changed(receipt.seq));
        }
        Ok(receipt.as_head())
    })
}

/// SHA-256 of the canonical encoding: every field in order, numbers big-endian, texts and lists with their length
/// before them, times in microseconds (what Postgres keeps). No two receipts have the same encoding.
fn hash(seq: i64, previous: &[u8; 32], body: &Body) -> [u8; 32] {
    let mut encoding = Encoding(Sha256::new());
    encoding.bytes(FORMAT);
    encoding.number(seq);
    encoding.bytes(previous);
    encoding.bytes(body.purge_id.0.as_bytes());
    encoding.bytes(body.kind.name().as_bytes());
    encoding.bytes(&body.subject_hash.0);
    encoding.bytes(body.trigger.name().as_bytes());
    encoding.number(body.epoch);
    encoding.number(i64::from(body.rounds));
    encoding.time(body.requested_at);
    encoding.time(body.committed_at);
    encoding.length(body.custodians.len());
    for custodian in &body.custodians {
        encoding.bytes(custodian.service.as_bytes());
        encoding.bytes(&custodian.digest);
        encoding.time(custodian.verified_at);
    }
    encoding.0.finalize().into()
}

struct Encoding(Sha256);

impl Encoding {
    fn number(&mut self, number: i64) {
        self.0.update(number.to_be_bytes());
    }

    fn length(&mut self, length: usize) {
        // A usize has at most 64 bits on every target there is.
        self.0.update(u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.update(bytes);
    }

    fn time(&mut self, time: DateTime<Utc>) {
        self.number(time.timestamp_micros());
    }
}
