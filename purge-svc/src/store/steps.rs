//! The steps that each custodian has done for a job, so that the next worker need not repeat them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use svc_core::{
    custody::StepKind,
    data::pg::{self, Result},
    id::PurgeId,
};

use super::sha256;
use crate::domain::{custodian::Custodian, receipt::CustodianDigest};

const TABLE: &str = "purge_steps";

/// A step that is done.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    pub custodian: Custodian,
    pub step: StepKind,
    /// Epoch of the worker that called.
    pub epoch: i64,
    /// SHA-256 of the encoded answer.
    pub digest: [u8; 32],
    pub at: DateTime<Utc>,
}

/// Records a step, unless an earlier worker did.
pub async fn record(db: &mut PgConnection, purge_id: PurgeId, done: &Done) -> Result<()> {
    sqlx::query!(
        "INSERT INTO purge_steps (purge_id, custodian, step, epoch, digest, at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (purge_id, custodian, step) DO NOTHING",
        purge_id.0,
        done.custodian.service(),
        done.step.name(),
        done.epoch,
        &done.digest[..],
        done.at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Finds the custodians that have done a step of a job.
pub async fn done_by(db: &mut PgConnection, purge_id: PurgeId, step: StepKind) -> Result<Vec<Custodian>> {
    let names = sqlx::query_scalar!(
        "SELECT custodian FROM purge_steps WHERE purge_id = $1 AND step = $2",
        purge_id.0,
        step.name(),
    )
    .fetch_all(db)
    .await?;
    names.into_iter().map(|name| custodian(purge_id, &name)).collect()
}

/// Reads the results of Verify at each custodian of a job.
pub async fn read_backs(db: &mut PgConnection, purge_id: PurgeId) -> Result<Vec<CustodianDigest>> {
    let rows = sqlx::query!(
        "SELECT custodian, digest, at
         FROM purge_steps
         WHERE purge_id = $1 AND step = 'verify'
         ORDER BY custodian",
        purge_id.0,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(CustodianDigest {
                digest: sha256(TABLE, "digest", purge_id, &row.digest)?,
                service: row.custodian,
                verified_at: row.at,
            })
        })
        .collect()
}

/// Deletes the recorded Erase and Verify steps of a purge. Called after Verify found data left at a
/// custodian, so that every custodian erases and verifies again.
pub async fn void_erasure(db: &mut PgConnection, purge_id: PurgeId) -> Result<()> {
    sqlx::query!("DELETE FROM purge_steps WHERE purge_id = $1 AND step IN ('erase', 'verify')", purge_id.0)
        .execute(db)
        .await?;
    Ok(())
}

fn custodian(purge_id: PurgeId, name: &str) -> Result<Custodian> {
    Custodian::from_service(name)
        .ok_or_else(|| pg::Error::inconsistent(TABLE, "custodian", purge_id, "is no custodian"))
}
