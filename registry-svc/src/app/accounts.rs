//! Accounts: operators create and list them; an account reads itself.

use svc_core::{
    custody,
    data::{
        idempotency::{Begin, Once},
        pg::{Pool, Tx},
    },
    id::AccountId,
    run::clock::SharedClock,
    subject::Subject,
    wire::{
        page::{self, Page},
        principal::Principal,
    },
};

use super::account_of;
use crate::{
    domain::account::Account,
    error::{Entity, Error, Result},
    store,
};

/// Name of this list in page tokens, so that a token of another list is refused.
const LISTING: &str = "registry.accounts";

/// Use cases of accounts.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    pool: Pool,
    clock: SharedClock,
}

impl Accounts {
    pub(crate) fn new(pool: Pool, clock: SharedClock) -> Self {
        Self { pool, clock }
    }

    pub(crate) async fn create(&self, caller: &Principal, name: String, once: &Once) -> Result<Account> {
        let mut tx = Tx::system(&self.pool).await?;
        let done = async {
            let slot = match once.begin::<AccountId>(&mut tx, caller.account_id).await? {
                Begin::Replay(id) => {
                    return store::accounts::find(&mut tx, id).await?.ok_or(Error::NotFound(Entity::Account));
                }
                Begin::First(slot) => slot,
            };
            let account = Account { id: AccountId::new(), name, created_at: self.clock.now() };
            insert(&mut tx, &account).await?;
            slot.finish(&mut tx, &account.id).await?;
            Ok(account)
        }
        .await;
        tx.end(done).await
    }

    /// # Errors
    /// [`Error::NotFound`] if the account does not exist, or if it is another tenant's.
    pub(crate) async fn get(&self, caller: &Principal, id: AccountId) -> Result<Account> {
        let id = account_of(caller, id)?;
        let mut db = self.pool.acquire().await?;
        store::accounts::find(&mut db, id).await?.ok_or(Error::NotFound(Entity::Account))
    }

    /// Lists accounts, newest first.
    pub(crate) async fn list(&self, page_size: u32, page_token: &str) -> Result<Page<Account>> {
        let before = page::cursor(LISTING, page_token)?;
        let mut db = self.pool.acquire().await?;
        let rows = store::accounts::list(&mut db, before, i64::from(page_size) + 1).await?;
        Ok(Page::cut(LISTING, rows, page_size, |last| last.id))
    }
}

/// Stores an account together with its custody row, without which the account could be neither used nor
/// erased.
pub(crate) async fn insert(tx: &mut Tx, account: &Account) -> Result<()> {
    custody::create(tx, Subject::Account { account: account.id }).await?;
    Ok(store::accounts::insert(tx, account).await?)
}
