//! Creates, reads and lists sessions, and lists their messages.

use std::{collections::BTreeSet, sync::Arc};

use svc_core::{
    custody,
    data::{
        idempotency::{Begin, Once},
        pg::{Pool, Tx},
    },
    error::Invalid,
    id::{AccountId, SessionId},
    run::clock::SharedClock,
    subject::Subject,
    wire::page::{self, Page},
};

use crate::{
    domain::{
        message::StoredMessage,
        session::{DEFAULT_ROUTE, InputPolicy, Session},
    },
    error::{Entity, Error, Result},
    store::{messages, sessions},
};

const SESSIONS: &str = "chat.sessions";
const MESSAGES: &str = "chat.messages";
/// Maximum bytes of messages on one page, unless it has a single message. It is below the message limit of
/// every client.
const PAGE_BYTES: usize = 2 << 20;

/// Fields of a new session.
#[derive(Debug, Clone)]
pub(crate) struct NewSession {
    pub title: String,
    pub input_policy: InputPolicy,
    /// Named list of models; empty is the default one.
    pub route: String,
}

/// Use cases of sessions.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    pool: Pool,
    clock: SharedClock,
    routes: Arc<BTreeSet<String>>,
}

impl Sessions {
    /// `routes` are the names that a session may have.
    pub(crate) fn new(pool: Pool, clock: SharedClock, routes: BTreeSet<String>) -> Self {
        Self { pool, clock, routes: Arc::new(routes) }
    }

    pub(crate) async fn create(
        &self,
        account_id: AccountId,
        new: NewSession,
        once: &Once,
    ) -> Result<Session> {
        let route = if new.route.is_empty() { DEFAULT_ROUTE.to_owned() } else { new.route };
        if !self.routes.contains(&route) {
            return Err(Invalid::new("route", "is not configured").into());
        }
        let mut tx = Tx::for_subject_or_new(&self.pool, Subject::Account { account: account_id }).await?;
        let slot = match once.begin::<SessionId>(&mut tx, Some(account_id)).await? {
            Begin::First(slot) => slot,
            Begin::Replay(id) => {
                tx.rollback().await?;
                return self.get(account_id, id).await;
            }
        };
        let now = self.clock.now();
        let session = Session {
            id: SessionId::new(),
            account_id,
            title: new.title,
            input_policy: new.input_policy,
            route,
            created_at: now,
            updated_at: now,
        };
        custody::create(&mut tx, Subject::Session { account: account_id, session: session.id }).await?;
        sessions::insert(&mut tx, &session).await?;
        slot.of_session(session.id).finish(&mut tx, &session.id).await?;
        tx.commit().await?;
        Ok(session)
    }

    pub(crate) async fn get(&self, account_id: AccountId, id: SessionId) -> Result<Session> {
        let mut db = self.pool.acquire().await?;
        sessions::find(&mut db, account_id, id).await?.ok_or(Error::NotFound(Entity::Session))
    }

    /// Lists a tenant's sessions, newest first.
    pub(crate) async fn list(&self, account_id: AccountId, size: u32, token: &str) -> Result<Page<Session>> {
        let after = page::cursor(SESSIONS, token)?;
        let mut db = self.pool.acquire().await?;
        let rows = sessions::list(&mut db, account_id, after, i64::from(size) + 1).await?;
        Ok(Page::cut(SESSIONS, rows, size, |last| last.id))
    }

    /// Lists a session's messages, oldest first; fewer than `size` if they exceed [`PAGE_BYTES`].
    pub(crate) async fn messages(
        &self,
        account_id: AccountId,
        id: SessionId,
        size: u32,
        token: &str,
    ) -> Result<Page<StoredMessage>> {
        let after = page::cursor(MESSAGES, token)?;
        self.get(account_id, id).await?;
        let mut db = self.pool.acquire().await?;
        let rows = messages::list(&mut db, account_id, id, after, i64::from(size) + 1).await?;
        let mut bytes = 0;
        let room = rows.iter().take_while(|stored| {
            bytes += stored.message.bytes();
            bytes <= PAGE_BYTES
        });
        let room = u32::try_from(room.count()).unwrap_or(size).max(1);
        Ok(Page::cut(MESSAGES, rows, size.min(room), |last| last.id))
    }
}
