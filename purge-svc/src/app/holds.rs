//! Holds, which forbid to erase a subject for a time: operators set, release and list them. Workers read them
//! before the freeze and at the point of no return.

use chrono::{DateTime, Utc};
use svc_core::{
    data::{
        idempotency::{Once, Opened},
        pg::{Pool, Tx},
        wake::Wake,
    },
    error::Invalid,
    id::new_id,
    run::clock::SharedClock,
    subject::{SubjectHash, SubjectKind},
    wire::page::{self, Page},
};
use uuid::Uuid;

use super::jobs::TOPIC;
use crate::{
    domain::hold::{Basis, Hold},
    error::{Entity, Error},
    store::{holds, jobs},
};

const LISTING: &str = "purge.holds";

/// Holds; cheap to clone.
#[derive(Debug, Clone)]
pub struct Holds {
    pool: Pool,
    wake: Wake,
    clock: SharedClock,
}

/// An operator's request to keep a subject.
#[derive(Debug, Clone)]
pub struct NewHold {
    pub kind: SubjectKind,
    pub subject_id: Uuid,
    pub basis: Basis,
    pub reference: String,
    pub ends_at: DateTime<Utc>,
}

impl Holds {
    pub const fn new(pool: Pool, wake: Wake, clock: SharedClock) -> Self {
        Self { pool, wake, clock }
    }

    /// Sets a hold.
    ///
    /// # Errors
    /// [`Error::ErasureStarted`] if a job of the subject has passed the point of no return.
    pub async fn set(&self, new: &NewHold, principal_id: &str, once: &Once) -> Result<Hold, Error> {
        let now = self.clock.now();
        let subject_hash = SubjectHash::of(new.kind.name(), new.subject_id);
        let (mut tx, slot) = match once.open(&self.pool, None).await? {
            Opened::Replay(made) => return self.get(made).await,
            Opened::First(tx, slot) => (tx, slot),
        };
        let hold = Hold {
            hold_id: new_id(),
            kind: new.kind,
            subject_hash,
            basis: new.basis,
            reference: new.reference.clone(),
            set_by: principal_id.to_owned(),
            set_at: now,
            ends_at: new.ends_at,
            released_at: None,
        };
        let done = async {
            if new.ends_at <= now {
                return Err(Invalid::new("ends_at", "must lie in the future").into());
            }
            holds::lock_subjects(&mut tx, &[subject_hash]).await?;
            if jobs::is_past_return(&mut tx, subject_hash).await? {
                return Err(Error::ErasureStarted);
            }
            holds::insert(&mut tx, &hold).await?;
            slot.finish(&mut tx, &hold.hold_id).await?;
            Ok(hold)
        }
        .await;
        tx.end(done).await
    }

    /// Ends a hold before its time. All jobs that wait for a hold become due at once, and read the holds
    /// again. Repeating the request changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such hold.
    pub async fn release(&self, hold_id: Uuid, principal_id: &str, once: &Once) -> Result<Hold, Error> {
        let (mut tx, slot) = match once.open(&self.pool, None).await? {
            Opened::Replay(made) => return self.get(made).await,
            Opened::First(tx, slot) => (tx, slot),
        };
        let done = async {
            let (hold, changed) = self.release_in(&mut tx, hold_id, principal_id).await?;
            slot.finish(&mut tx, &hold_id).await?;
            Ok::<_, Error>((hold, changed))
        }
        .await;
        let (hold, changed) = tx.end(done).await?;
        if changed {
            self.wake.publish(TOPIC, b"").await;
        }
        Ok(hold)
    }

    /// Returns the released hold and whether it was unreleased until now.
    async fn release_in(&self, tx: &mut Tx, id: Uuid, by: &str) -> Result<(Hold, bool), Error> {
        let now = self.clock.now();
        let hold = holds::find(tx, id).await?.ok_or(Error::NotFound(Entity::Hold))?;
        // Waits for a worker that has read the hold, until that worker has stored that its job waits. Only
        // then can the release wake that job.
        holds::lock_subjects(tx, &[hold.subject_hash]).await?;
        let changed = holds::release(tx, id, by, now).await?;
        if changed {
            jobs::wake_held(tx, now).await?;
        }
        let hold = holds::find(tx, id).await?.ok_or(Error::NotFound(Entity::Hold))?;
        Ok((hold, changed))
    }

    async fn get(&self, hold_id: Uuid) -> Result<Hold, Error> {
        let mut db = self.pool.acquire().await?;
        holds::find(&mut db, hold_id).await?.ok_or(Error::NotFound(Entity::Hold))
    }

    /// Returns one page of the holds in force, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the token is not one of this list.
    pub async fn list(&self, size: u32, token: &str) -> Result<Page<Hold>, Error> {
        let after: Option<Uuid> = page::cursor(LISTING, token)?;
        let mut db = self.pool.acquire().await?;
        let found = holds::list(&mut db, after, i64::from(size) + 1, self.clock.now()).await?;
        Ok(Page::cut(LISTING, found, size, |hold| hold.hold_id))
    }
}
