//! Dead letters, the records of objects that a custodian cannot delete: operators list and resolve them.

use svc_core::{
    data::{
        idempotency::{Once, Opened},
        pg::{Pool, Tx},
        wake::Wake,
    },
    id::PurgeId,
    run::clock::SharedClock,
    wire::page::{self, Page},
};
use uuid::Uuid;

use super::jobs::TOPIC;
use crate::{
    domain::{
        dead_letter::DeadLetter,
        job::{self, Input, State},
    },
    error::{Entity, Error},
    store::{dead_letters, jobs},
};

const LISTING: &str = "purge.dead_letters";

/// Dead letters; cheap to clone.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    pool: Pool,
    wake: Wake,
    clock: SharedClock,
}

impl DeadLetters {
    pub const fn new(pool: Pool, wake: Wake, clock: SharedClock) -> Self {
        Self { pool, wake, clock }
    }

    /// Returns one page of the unresolved letters, newest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the token is not one of this list.
    pub async fn list(&self, size: u32, token: &str) -> Result<Page<DeadLetter>, Error> {
        let after: Option<Uuid> = page::cursor(LISTING, token)?;
        let mut db = self.pool.acquire().await?;
        let found = dead_letters::list(&mut db, after, i64::from(size) + 1).await?;
        Ok(Page::cut(LISTING, found, size, |letter| letter.dead_letter_id))
    }

    /// Resolves a letter: the operator says that the object can be deleted or is gone. When the last letter
    /// of a job is resolved, the job continues with Erase and Verify. Repeating the request changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such letter.
    pub async fn resolve(&self, id: Uuid, principal_id: &str, once: &Once) -> Result<DeadLetter, Error> {
        let (mut tx, slot) = match once.open(&self.pool, None).await? {
            Opened::Replay(made) => return self.get(made).await,
            Opened::First(tx, slot) => (tx, slot),
        };
        let done = async {
            let (letter, changed) = self.resolve_in(&mut tx, id, principal_id).await?;
            slot.finish(&mut tx, &id).await?;
            Ok::<_, Error>((letter, changed))
        }
        .await;
        let (letter, changed) = tx.end(done).await?;
        if changed {
            self.wake.publish(TOPIC, b"").await;
        }
        Ok(letter)
    }

    /// Returns the resolved letter and whether it was unresolved until now.
    async fn resolve_in(&self, tx: &mut Tx, id: Uuid, by: &str) -> Result<(DeadLetter, bool), Error> {
        let now = self.clock.now();
        let letter = dead_letters::find(tx, id).await?.ok_or(Error::NotFound(Entity::DeadLetter))?;
        let purge_id = PurgeId(letter.purge_id);
        // Locks the job before its letters, as its worker does when it stops the job.
        let job = jobs::lock(tx, None, purge_id).await?.ok_or(Error::NotFound(Entity::Purge))?;
        let letter = dead_letters::find(tx, id).await?.ok_or(Error::NotFound(Entity::DeadLetter))?;
        if letter.resolved_at.is_some() {
            return Ok((letter, false));
        }
        dead_letters::resolve(tx, id, by, now).await?;
        let left = dead_letters::count_unresolved(tx, purge_id).await?;
        if left == 0 && job.record.state == State::DeadLettered {
            let moved = job::next(&job.record, Input::LettersResolved, now)?.record;
            jobs::save(tx, purge_id, &job.record, &moved, None, None).await?;
        }
        let letter = dead_letters::find(tx, id).await?.ok_or(Error::NotFound(Entity::DeadLetter))?;
        Ok((letter, true))
    }

    async fn get(&self, id: Uuid) -> Result<DeadLetter, Error> {
        let mut db = self.pool.acquire().await?;
        dead_letters::find(&mut db, id).await?.ok_or(Error::NotFound(Entity::DeadLetter))
    }
}
