//! The erasure ledger: one receipt for each erasure, each bound to the receipt before it.
//!
//! A receipt's hash covers its content and the hash of the receipt before it. With the newest hash a reader
//! can tell whether any receipt was changed, removed, added or moved. If the *end* of the ledger was cut off,
//! only a newest hash that was kept elsewhere shows it.
//!
//! Receipts hold no personal data: a receipt names its subject only by a hash of the subject's kind and
//! random id.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use svc_core::{
    id::PurgeId,
    subject::{SubjectHash, SubjectKind},
};

use super::trigger::Trigger;

#[cfg(test)]
mod tests;

/// First bytes of the hashed encoding, so that a receipt of another format never has the same hash.
const FORMAT: &[u8] = b"steward.purge.receipt.v1";

/// The hash before the first receipt.
pub const GENESIS: [u8; 32] = [0; 32];

/// Read-back of one custodian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustodianDigest {
    /// Name of the service.
    pub service: String,
    /// SHA-256 of the encoded answer to Verify.
    pub digest: [u8; 32],
    /// Time of the read-back, by the custodian's database clock.
    pub verified_at: DateTime<Utc>,
}

/// Content of a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub purge_id: PurgeId,
    pub kind: SubjectKind,
    pub subject_hash: SubjectHash,
    pub trigger: Trigger,
    /// The job's last epoch: the number of its claims.
    pub epoch: i64,
    /// Number of read-backs that found residue.
    pub rounds: u32,
    /// Time of the job's acceptance.
    pub requested_at: DateTime<Utc>,
    pub committed_at: DateTime<Utc>,
    /// Read-backs of the custodians, in the order of their names.
    pub custodians: Vec<CustodianDigest>,
}

/// One link of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Place in the ledger, from 1.
    pub seq: i64,
    /// Hash of the receipt before it; [`GENESIS`] for the first.
    pub previous_hash: [u8; 32],
    pub body: Body,
    /// SHA-256 over the three fields above.
    pub hash: [u8; 32],
}

/// Writes bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The newest receipt of a ledger: the one that the next receipt follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Place of the newest receipt; 0 in an empty ledger.
    pub seq: i64,
    pub hash: [u8; 32],
}

impl Head {
    /// The head of an empty ledger.
    pub const EMPTY: Self = Self { seq: 0, hash: GENESIS };
}

/// The first fault of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A place is missing or appears twice.
    #[error("receipt {found} stands where {expected} should")]
    Gap { expected: i64, found: i64 },
    /// A receipt does not follow the one before it.
    #[error("receipt {0} does not follow the one before it")]
    Unlinked(i64),
    /// A receipt differs from what was hashed.
    #[error("receipt {0} was changed")]
    Changed(i64),
}

impl Receipt {
    /// Makes the receipt of `body` that follows `head`.
    pub fn seal(head: Head, mut body: Body) -> Self {
        body.custodians.sort_by(|one, other| one.service.cmp(&other.service));
        let seq = head.seq + 1;
        let hash = hash(seq, &head.hash, &body);
        Self { seq, previous_hash: head.hash, body, hash }
    }

    /// Returns this receipt as the head of its ledger.
    pub const fn as_head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }
}

/// Checks `receipts`, in order, as the successors of `head`, and returns the resulting head.
///
/// # Errors
/// [`Broken`] names the first fault.
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

/// Returns the SHA-256 of the canonical encoding: every field in order, numbers big-endian, a length before
/// each text and list, times in microseconds (the precision of Postgres). No two receipts have the same
/// encoding.
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
        // A usize has at most 64 bits on every supported target.
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
