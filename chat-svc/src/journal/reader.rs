//! Serves one client the events of a turn after any cursor, on any replica: each event once, in order, up to
//! the turn's last one.
//!
//! A reader first subscribes to the hub, and to hints if the turn does not run in this process. Then it reads
//! Postgres from its cursor to the newest event, and takes from the hub the events that it has not sent. It
//! reads Postgres again after a gap, after a hint, and after `poll` without news while the turn is not final.
//! The bytes are always the stored ones.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::{
        pg::{self, Pool},
        wake::{Hint, Subscription},
    },
    id::TurnId,
};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::hub::{Hub, News};
use crate::{
    domain::{
        event::{StoredEvent, TurnEvent},
        settings::JournalConfig,
    },
    store::events,
};

/// Why a reader stops early.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The turn was erased.
    #[error("the turn is gone")]
    Gone,
    #[error("read the journal")]
    Store(#[from] pg::Error),
}

/// One client's position in one turn.
#[derive(Debug)]
pub struct Reader {
    config: Arc<JournalConfig>,
    pool: Pool,
    hub: Hub,
    turn_id: TurnId,
    news: Option<Receiver<News>>,
    /// Set while the turn does not run in this process.
    hints: Option<Subscription>,
    last_seq: i64,
    /// Postgres may have events that were not sent.
    behind: bool,
    done: bool,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.news = None;
        self.hub.forget_unread(self.turn_id);
    }
}

impl Reader {
    pub(super) fn new(config: Arc<JournalConfig>, pool: Pool, hub: &Hub, turn_id: TurnId, seq: i64) -> Self {
        Self {
            config,
            pool,
            news: Some(hub.subscribe(turn_id)),
            hints: None,
            hub: hub.clone(),
            turn_id,
            last_seq: seq,
            behind: true,
            done: false,
        }
    }

    /// Waits for the next events: at least one, in order; `None` after the turn's last event. Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    /// [`ReadError::Gone`] if the turn was erased; [`ReadError::Store`] if Postgres fails.
    pub async fn next(&mut self) -> Result<Option<Vec<StoredEvent>>, ReadError> {
        loop {
            if self.done {
                return Ok(None);
            }
            self.update_hints().await;
            let found = if self.behind { self.read().await? } else { self.listen().await };
            if let Some(last) = found.last() {
                self.last_seq = last.seq;
                self.done = TurnEvent::is_final(&last.kind);
                return Ok(Some(found));
            }
        }
    }

    async fn read(&mut self) -> Result<Vec<StoredEvent>, ReadError> {
        let mut db = self.pool.acquire().await?;
        // Reads the status before the page: if the turn is final, no event can follow the page unread.
        let open = events::is_open(&mut db, self.turn_id).await?.ok_or(ReadError::Gone)?;
        let limit = self.config.page_events;
        let page = events::list_after(&mut db, self.turn_id, self.last_seq, limit).await?;
        self.behind = i64::try_from(page.len()).is_ok_and(|read| read == limit);
        // Ends here only if the cursor is at the turn's last event; otherwise that event is read and ends the
        // stream.
        self.done = !open && page.is_empty();
        Ok(page)
    }

    /// Subscribes to hints exactly while the turn does not run in this process.
    async fn update_hints(&mut self) {
        let here = self.hub.runs_here(self.turn_id);
        if here {
            self.hints = None;
        } else if self.hints.is_none() {
            self.hints = Some(self.hub.remote_hints(self.turn_id).await);
            // Events that other processes committed before the subscription were not announced here.
            self.behind = true;
        }
    }

    async fn listen(&mut self) -> Vec<StoredEvent> {
        let Some(news) = &mut self.news else { return Vec::new() };
        tokio::select! {
            biased;
            news = news.recv() => match news {
                Ok(News::Committed(batch)) => {
                    let new: Vec<StoredEvent> =
                        batch.iter().filter(|event| event.seq > self.last_seq).cloned().collect();
                    let gap = new.first().is_some_and(|first| first.seq != self.last_seq + 1);
                    self.behind = gap;
                    if gap { Vec::new() } else { new }
                }
                Ok(News::Closed) => Vec::new(),
                Err(RecvError::Lagged(_) | RecvError::Closed) => {
                    self.behind = true;
                    Vec::new()
                }
            },
            hint = hint(&mut self.hints, self.config.poll) => {
                self.behind = match hint {
                    Hint::Message(sender) => !self.hub.is_own(&sender),
                    Hint::Look => true,
                };
                Vec::new()
            }
        }
    }
}

async fn hint(hints: &mut Option<Subscription>, poll: Duration) -> Hint {
    match hints {
        Some(hints) => hints.next(poll).await,
        None => {
            tokio::time::sleep(poll).await;
            Hint::Look
        }
    }
}
