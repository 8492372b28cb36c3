//! Leases on rows.
//!
//! The row has three columns: `lease_owner text`, `lease_until timestamptz`, `epoch bigint NOT NULL DEFAULT
//! 0`. [`item_lease!`](crate::item_lease) declares the table. It concatenates the SQL statements from
//! literals when the crate is built, so no input can be injected. A store that changes the row's status with
//! the claim writes its own statement in the same form:
//!
//! ```sql
//! UPDATE turns
//! SET epoch = epoch + 1, lease_owner = $3, lease_until = now() + make_interval(secs => $4),
//!     status = 'running'
//! WHERE turn_id = $1 AND epoch = $2                       -- no other process has claimed it
//!   AND (lease_until IS NULL OR lease_until < now())      -- expired
//! ```
//!
//! Every write of the holder to the leased row has the condition `AND epoch = $mine`. Before it writes to
//! other rows, the holder locks the leased row with [`hold`]. A holder may renew an expired lease that no
//! process has claimed, and continue.

use std::{borrow::Cow, time::Duration};

use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    data::pg::{self, Pool},
    error::Chain,
};

/// A table with leased rows, declared with [`item_lease!`](crate::item_lease).
pub trait ItemLeases {
    /// Name of the table, for errors.
    const NAME: &'static str;
    /// SQL that claims a row. Parameters: id, epoch that the caller read, owner, seconds.
    const TAKE: &'static str;
    /// SQL that renews a lease. Parameters: id, epoch, owner, seconds.
    const RENEW: &'static str;
    /// SQL that releases a lease. Parameters: id, epoch, owner.
    const RELEASE: &'static str;
    /// SQL that locks the row, so that no process can claim it. Parameters: id, epoch.
    const HOLD: &'static str;
}

/// Declares a type that represents the leases of a table: `item_lease! { /// Turns being run. pub struct
/// TurnLeases: "turns", "turn_id" }`.
#[macro_export]
macro_rules! item_lease {
    ($(#[$meta:meta])* $vis:vis struct $name:ident: $table:literal, $key:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        $vis struct $name;

        impl $crate::data::lease::ItemLeases for $name {
            const NAME: &'static str = $table;
            const TAKE: &'static str = concat!(
                "UPDATE ", $table, " SET epoch = epoch + 1, lease_owner = $3, ",
                "lease_until = now() + make_interval(secs => $4) ",
                "WHERE ", $key, " = $1 AND epoch = $2 AND (lease_until IS NULL OR lease_until < now()) ",
                "RETURNING epoch",
            );
            const RENEW: &'static str = concat!(
                "UPDATE ", $table, " SET lease_until = now() + make_interval(secs => $4) ",
                "WHERE ", $key, " = $1 AND epoch = $2 AND lease_owner = $3",
            );
            const RELEASE: &'static str = concat!(
                "UPDATE ", $table, " SET lease_owner = NULL, lease_until = NULL ",
                "WHERE ", $key, " = $1 AND epoch = $2 AND lease_owner = $3",
            );
            const HOLD: &'static str =
                concat!("SELECT 1 FROM ", $table, " WHERE ", $key, " = $1 AND epoch = $2 FOR SHARE");
        }
    };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemLease {
    /// Key of the row.
    pub id: Uuid,
    /// Epoch of this lease. Each claim of the row raises the row's epoch by 1. A store may also raise it to
    /// end a lease early.
    pub epoch: i64,
    pub owner: String,
}

/// Claims the row for `owner`. `seen` is the epoch that the caller read. Returns `None` if another process
/// has claimed the row since then, or the present lease has not expired.
///
/// # Errors
/// [`pg::Error`] if Postgres did not run the statement.
pub async fn take<L: ItemLeases>(
    connection: &mut PgConnection,
    id: Uuid,
    seen: i64,
    owner: &str,
    ttl: Duration,
) -> Result<Option<ItemLease>, pg::Error> {
    let epoch: Option<i64> = sqlx::query_scalar(L::TAKE)
        .bind(id)
        .bind(seen)
        .bind(owner)
        .bind(ttl.as_secs_f64())
        .fetch_optional(connection)
        .await?;
    Ok(epoch.map(|epoch| ItemLease { id, epoch, owner: owner.to_owned() }))
}

/// Renews a lease. An expired lease can still be renewed if no process has claimed the row.
///
/// # Errors
/// [`pg::Error::Fenced`] if another process claimed the row, or the lease was released.
pub async fn renew<L: ItemLeases>(
    connection: &mut PgConnection,
    lease: &ItemLease,
    ttl: Duration,
) -> Result<(), pg::Error> {
    let done = sqlx::query(L::RENEW)
        .bind(lease.id)
        .bind(lease.epoch)
        .bind(&lease.owner)
        .bind(ttl.as_secs_f64())
        .execute(connection)
        .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(pg::Error::Fenced(Cow::Borrowed(L::NAME))) }
}

/// Renews a lease every third of `ttl`. Returns [`pg::Error::Fenced`] when another process has claimed the
/// row or the lease was released. After any other error of Postgres it tries again: until another process
/// claims the row, the holder may write even if the lease has expired.
pub async fn keep<L: ItemLeases>(pool: &Pool, lease: &ItemLease, ttl: Duration) -> pg::Error {
    loop {
        tokio::time::sleep(ttl / 3).await;
        let renewed = async {
            let mut db = pool.acquire().await?;
            renew::<L>(&mut db, lease, ttl).await
        };
        match renewed.await {
            Ok(()) => {}
            Err(error @ pg::Error::Fenced(_)) => return error,
            Err(error) => {
                tracing::warn!(table = L::NAME, error = %Chain(&error), "lease not renewed");
            }
        }
    }
}

/// Releases a lease, so that the next holder need not wait until it expires. If another process has claimed
/// the row, that process keeps its lease.
///
/// # Errors
/// [`pg::Error`] if the lease was not released; it then expires.
pub async fn release<L: ItemLeases>(
    connection: &mut PgConnection,
    lease: &ItemLease,
) -> Result<(), pg::Error> {
    sqlx::query(L::RELEASE).bind(lease.id).bind(lease.epoch).bind(&lease.owner).execute(connection).await?;
    Ok(())
}

/// Locks the leased row until the transaction ends, so that no process can claim it while the transaction
/// writes to other rows.
///
/// # Errors
/// [`pg::Error::Fenced`] if another process claimed the row.
pub async fn hold<L: ItemLeases>(connection: &mut PgConnection, lease: &ItemLease) -> Result<(), pg::Error> {
    let held: Option<i32> =
        sqlx::query_scalar(L::HOLD).bind(lease.id).bind(lease.epoch).fetch_optional(connection).await?;
    held.map(|_| ()).ok_or(pg::Error::Fenced(Cow::Borrowed(L::NAME)))
}

/// Decides when a worker that scans for expired leases may claim them: not while they may have expired only
/// because Postgres was unreachable.
///
/// After an outage each holder must have the chance to renew its lease first, so a worker that could not
/// reach Postgres waits for one TTL. A worker that just started waits too, because it does not know whether
/// there was an outage.
#[derive(Debug, Clone)]
pub struct Scanner {
    ttl: Duration,
    last: Option<Instant>,
    since: Option<Instant>,
}

impl Scanner {
    /// Builds a scanner for leases that last `ttl` and are renewed every third of `ttl`. The worker must read
    /// Postgres at least once every half of `ttl`.
    pub const fn new(ttl: Duration) -> Self {
        Self { ttl, last: None, since: None }
    }

    /// Records that the worker read Postgres at `now`. A gap of more than half a TTL counts as an outage: a
    /// holder that renewed a third of a TTL before the gap could not renew during it, and its lease may
    /// expire soon.
    pub fn reached(&mut self, now: Instant) {
        let unbroken = self.last.is_some_and(|last| now.saturating_duration_since(last) <= self.ttl / 2);
        if !unbroken {
            self.since = Some(now);
        }
        self.last = Some(now);
    }

    /// Returns whether the worker has read Postgres for one TTL without a gap of more than half a TTL, so
    /// that it may claim expired leases.
    pub fn may_take(&self, now: Instant) -> bool {
        let (Some(since), Some(last)) = (self.since, self.last) else { return false };
        let fresh = now.saturating_duration_since(last) <= self.ttl / 2;
        fresh && last.saturating_duration_since(since) >= self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_scanner_takes_after_one_ttl_of_contact() {
        let start = Instant::now();
        let mut scanner = Scanner::new(TTL);
        assert!(!scanner.may_take(start));
        for second in 0..=9 {
            assert!(!scanner.may_take(after(start, second)), "at {second}");
            scanner.reached(after(start, second));
        }
        assert!(scanner.may_take(after(start, 9)));
    }

    #[test]
    fn a_scanner_that_lost_contact_waits_a_ttl_again() {
        let start = Instant::now();
        let mut scanner = Scanner::new(TTL);
        (0..=10).for_each(|second| scanner.reached(after(start, second)));
        assert!(scanner.may_take(after(start, 10)));
        // No read for 5 s: more than half of the TTL.
        assert!(!scanner.may_take(after(start, 15)));
        scanner.reached(after(start, 15));
        assert!(!scanner.may_take(after(start, 15)));
        (16..=23).for_each(|second| scanner.reached(after(start, second)));
        assert!(!scanner.may_take(after(start, 23)));
        scanner.reached(after(start, 24));
        assert!(scanner.may_take(after(start, 24)));
    }
}
