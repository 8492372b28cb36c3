//! The ledger of receipts. The service's database role may only insert and read.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{data::pg::Result, id::PurgeId};
use uuid::Uuid;

use svc_core::subject::SubjectKind;

use super::{sha256, subject_hash};
use crate::domain::{
    receipt::{Body, CustodianDigest, Head, Receipt},
    trigger::Trigger,
};

const TABLE: &str = "receipts";

struct ReceiptRow {
    seq: i64,
    purge_id: Uuid,
    subject_kind: SubjectKind,
    subject_hash: Vec<u8>,
    trigger: Trigger,
    epoch: i64,
    rounds: i32,
    requested_at: DateTime<Utc>,
    committed_at: DateTime<Utc>,
    previous_hash: Vec<u8>,
    hash: Vec<u8>,
}

impl ReceiptRow {
    fn into_receipt(self, custodians: Vec<CustodianDigest>) -> Result<Receipt> {
        let bad = |column, problem| svc_core::data::pg::Error::inconsistent(TABLE, column, self.seq, problem);
        Ok(Receipt {
            seq: self.seq,
            previous_hash: sha256(TABLE, "previous_hash", self.seq, &self.previous_hash)?,
            hash: sha256(TABLE, "hash", self.seq, &self.hash)?,
            body: Body {
                purge_id: PurgeId(self.purge_id),
                kind: self.subject_kind,
                subject_hash: subject_hash(TABLE, self.seq, &self.subject_hash)?,
                trigger: self.trigger,
                epoch: self.epoch,
                rounds: u32::try_from(self.rounds).map_err(|_| bad("rounds", "is negative"))?,
                requested_at: self.requested_at,
                committed_at: self.committed_at,
                custodians,
            },
        })
    }
}

/// Locks the end of the ledger until the transaction ends, and returns the newest receipt. The lock makes
/// transactions append one after the other.
pub async fn lock_head(db: &mut PgConnection) -> Result<Head> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('steward.purge.receipts', 0))")
        .execute(&mut *db)
        .await?;
    // Reads in a second statement, because its snapshot must be newer than the lock.
    let row =
        sqlx::query!("SELECT seq, hash FROM receipts ORDER BY seq DESC LIMIT 1").fetch_optional(db).await?;
    match row {
        None => Ok(Head::EMPTY),
        Some(row) => Ok(Head { seq: row.seq, hash: sha256(TABLE, "hash", row.seq, &row.hash)? }),
    }
}

/// Appends a receipt.
///
/// # Errors
/// [`svc_core::data::pg::Error::Conflict`] if the purge has one, or another receipt has this number.
pub async fn append(db: &mut PgConnection, receipt: &Receipt) -> Result<()> {
    let body = &receipt.body;
    sqlx::query!(
        "INSERT INTO receipts
             (seq, purge_id, subject_kind, subject_hash, trigger, epoch, rounds, requested_at, committed_at,
              previous_hash, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        receipt.seq,
        body.purge_id.0,
        body.kind as SubjectKind,
        &body.subject_hash.0[..],
        body.trigger as Trigger,
        body.epoch,
        i32::try_from(body.rounds).unwrap_or(i32::MAX),
        body.requested_at,
        body.committed_at,
        &receipt.previous_hash[..],
        &receipt.hash[..],
    )
    .execute(&mut *db)
    .await?;
    for custodian in &body.custodians {
        sqlx::query!(
            "INSERT INTO receipt_custodians (seq, custodian, digest, verified_at) VALUES ($1, $2, $3, $4)",
            receipt.seq,
            custodian.service,
            &custodian.digest[..],
            custodian.verified_at,
        )
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// Reads the receipts of these jobs.
pub async fn of_purges(db: &mut PgConnection, purges: &[PurgeId]) -> Result<Vec<Receipt>> {
    let ids: Vec<Uuid> = purges.iter().map(|purge| purge.0).collect();
    let rows = sqlx::query_as!(
        ReceiptRow,
        "SELECT seq, purge_id, subject_kind, subject_hash, trigger, epoch, rounds, requested_at, committed_at,
                previous_hash, hash
         FROM receipts
         WHERE purge_id = ANY ($1)
         ORDER BY seq",
        &ids[..]
    )
    .fetch_all(&mut *db)
    .await?;
    complete(db, rows).await
}

/// Reads the next receipts after place `after`, in order.
pub async fn page(db: &mut PgConnection, after: i64, limit: i64) -> Result<Vec<Receipt>> {
    let rows = sqlx::query_as!(
        ReceiptRow,
        "SELECT seq, purge_id, subject_kind, subject_hash, trigger, epoch, rounds, requested_at, committed_at,
                previous_hash, hash
         FROM receipts
         WHERE seq > $1
         ORDER BY seq
         LIMIT $2",
        after,
        limit
    )
    .fetch_all(&mut *db)
    .await?;
    complete(db, rows).await
}

async fn complete(db: &mut PgConnection, rows: Vec<ReceiptRow>) -> Result<Vec<Receipt>> {
    let places: Vec<i64> = rows.iter().map(|row| row.seq).collect();
    let digests = sqlx::query!(
        "SELECT seq, custodian, digest, verified_at
         FROM receipt_custodians
         WHERE seq = ANY ($1)
         ORDER BY seq, custodian",
        &places[..]
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let custodians = digests
                .iter()
                .filter(|digest| digest.seq == row.seq)
                .map(|digest| {
                    Ok(CustodianDigest {
                        service: digest.custodian.clone(),
                        digest: sha256("receipt_custodians", "digest", digest.seq, &digest.digest)?,
                        verified_at: digest.verified_at,
                    })
                })
                .collect::<Result<_>>()?;
            row.into_receipt(custodians)
        })
        .collect()
}
