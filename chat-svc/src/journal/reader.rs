//! Serves one client a turn's events, from any cursor, on any replica: each once, in order, to the end.
//!
//! It registers with the hub first, and for hints if the turn does not run in this process; then it reads the
//! database from its cursor to the head; then it takes what the hub hands out and drops what it has sent. A gap sends
//! it back to the database; so does a hint, and so does a second without news while the turn is not final. The bytes
//! are the stored ones either way.

use std::{sync::Arc, time::Duration};

use svc_core::{
    data::{
        pg::{self, Pool},
        wake::{Hint, Subscription},
    },
    id::TurnId,
};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    JournalConfig,
    hub::{Hub, News},
};
use crate::{
    domain::event::{StoredEvent, TurnEvent},
    store::events,
};

/// Why a reader cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The turn was erased.
    #[error("the turn is gone")]
    Gone,
    /// The database did not answer.
    #[error("read the journal")]
    Store(#[from] pg::Error),
}

/// One client's place in one turn.
#[derive(Debug)]
pub struct Reader {
    config: Arc<JournalConfig>,
    pool: Pool,
    hub: Hub,
    turn_id: TurnId,
    news: Option<Receiver<News>>,
    /// While the turn runs elsewhere, or nowhere.
    hints: Option<Subscription>,
    last_seq: i64,
    /// The database may hold more than was sent.
    behind: bool,
    done: bool,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.news = None;
        self.hub.tidy(self.turn_id);
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

    /// The events that follow, at least one, in order; `None` after the turn's last event. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// [`ReadError`]; the client goes on from its cursor.
    pub async fn next(&mut self) -> Result<Option<Vec<StoredEvent>>, ReadError> {
        loop {
            if self.done {
                return Ok(None);
            }
            self.attend().await;
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
        // In this order: what a final turn has is all there will be.
        let open = events::is_open(&mut db, self.turn_id).await?.ok_or(ReadError::Gone)?;
        let limit = self.config.page_events;
        let page = events::list_after(&mut db, self.turn_id, self.last_seq, limit).await?;
        self.behind = i64::try_from(page.len()).is_ok_and(|read| read == limit);
        // Only for a cursor at the very end: otherwise the last event says so itself.
        self.done = !open && page.is_empty();
        Ok(page)
    }

    /// Asks for hints exactly while the hub does not hear everything itself.
    async fn attend(&mut self) {
        let here = self.hub.runs_here(self.turn_id);
        if here {
            self.hints = None;
        } else if self.hints.is_none() {
            self.hints = Some(self.hub.hints_of_others(self.turn_id).await);
            // What was committed elsewhere before that was announced to nobody here.
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
                Ok(News::Left) => Vec::new(),
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
