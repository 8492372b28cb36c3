//! The ledger of receipts. The service's database role may only insert and read.

use sqlx::PgConnection;
use svc_core::{
    data::pg::{self, Result},
    id::PurgeId,
    subject::{SubjectHash, SubjectKind},
};
use uuid::Uuid;

use super::sha256;
use crate::domain::{
    receipt::{Body, CustodianDigest, Head, Receipt},
    trigger::Trigger,
};

const TABLE: &str = "receipts";

/// Selects receipts without their custodians, each as its own `Result`; `$tail` is the rest of the statement
/// after FROM.
macro_rules! select {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            "SELECT seq, purge_id, subject_kind, subject_hash, trigger, epoch, rounds, requested_at,
                    committed_at, previous_hash, hash
             FROM receipts " + $tail
            $(, $argument)*
        )
        .map(|row| {
            let negative = |_| pg::Error::inconsistent(TABLE, "rounds", row.seq, "is negative");
            Ok(Receipt {
                seq: row.seq,
                previous_hash: sha256(TABLE, "previous_hash", row.seq, &row.previous_hash)?,
                hash: sha256(TABLE, "hash", row.seq, &row.hash)?,
                body: Body {
                    purge_id: PurgeId(row.purge_id),
                    kind: row.subject_kind,
                    subject_hash: SubjectHash(sha256(TABLE, "subject_hash", row.seq, &row.subject_hash)?),
                    trigger: row.trigger,
                    epoch: row.epoch,
                    rounds: u32::try_from(row.rounds).map_err(negative)?,
                    requested_at: row.requested_at,
                    committed_at: row.committed_at,
                    custodians: Vec::new(),
                },
            })
        })
    };
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
    let receipts = select!("WHERE purge_id = ANY ($1) ORDER BY seq", &ids[..]).fetch_all(&mut *db).await?;
    with_custodians(db, receipts).await
}

/// Reads the next receipts after place `after`, in order.
pub async fn page(db: &mut PgConnection, after: i64, limit: i64) -> Result<Vec<Receipt>> {
    let receipts = select!("WHERE seq > $1 ORDER BY seq LIMIT $2", after, limit).fetch_all(&mut *db).await?;
    with_custodians(db, receipts).await
}

/// Fills in the custodians of receipts.
async fn with_custodians(db: &mut PgConnection, receipts: Vec<Result<Receipt>>) -> Result<Vec<Receipt>> {
    let mut receipts = receipts.into_iter().collect::<Result<Vec<_>>>()?;
    let places: Vec<i64> = receipts.iter().map(|receipt| receipt.seq).collect();
    let digests = sqlx::query!(
        "SELECT seq, custodian, digest, verified_at
         FROM receipt_custodians
         WHERE seq = ANY ($1)
         ORDER BY seq, custodian",
        &places[..]
    )
    .fetch_all(db)
    .await?;
    for receipt in &mut receipts {
        for digest in digests.iter().filter(|digest| digest.seq == receipt.seq) {
            receipt.body.custodians.push(CustodianDigest {
                service: digest.custodian.clone(),
                digest: sha256("receipt_custodians", "digest", digest.seq, &digest.digest)?,
                verified_at: digest.verified_at,
            });
        }
    }
    Ok(receipts)
}
