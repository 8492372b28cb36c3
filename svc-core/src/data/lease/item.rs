//! Leases on rows.
//!
//! The row has three columns: `lease_owner text`, `lease_until timestamptz`, `epoch bigint NOT NULL DEFAULT
//! 0`. [`item_lease!`](crate::item_lease) names the table; the statements are put together when the crate is
//! built, from literals, so there is nothing that could be injected. A store that takes a row together with a
//! change of its status writes its own statement in the same form:
//!
//! ```sql
//! UPDATE turns
//! SET epoch = epoch + 1, lease_owner = $3, lease_until = now() + make_interval(secs => $4),
//!     status = 'running'
//! WHERE turn_id = $1 AND epoch = $2                       -- as seen: no process was faster
//!   AND (lease_until IS NULL OR lease_until < now())      -- expired
//! ```
//!
//! and every write under the lease carries `AND epoch = $mine` in the same row, or holds the row with
//! [`hold`] where it writes to other rows. A holder may renew an expired lease that no process has claimed,
//! and continue.

use std::{borrow::Cow, time::Duration};

use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    data::pg::{self, Pool},
    error::Chain,
};

/// A table with leased rows. Made by [`item_lease!`](crate::item_lease).
pub trait ItemLeases {
    /// Name of the table, for errors.
    const NAME: &'static str;
    /// Claims a row: id, epoch as seen, owner, seconds.
    const TAKE: &'static str;
    /// Renews a lease: id, epoch, owner, seconds.
    const RENEW: &'static str;
    /// Releases a lease: id, epoch, owner.
    const RELEASE: &'static str;
    /// Locks the row against a claim: id, epoch.
    const HOLD: &'static str;
}

/// Declares a type that stands for the leases of a table: `item_lease! { /// Turns being run. pub struct
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
    /// Epoch of this lease; only a claim increases it.
    pub epoch: i64,
    pub owner: String,
}

/// Claims the row unless another process did since its epoch was `seen`, or its lease has not expired.
///
/// # Errors
/// [`pg::Error`] if Postgres did not decide.
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

/// Renews a lease, also an expired one that no process has claimed.
///
/// # Errors
/// [`pg::Error::Fenced`] if another process claimed the row.
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

/// Renews a lease every third of `ttl` until another process has claimed the row, and returns
/// [`pg::Error::Fenced`]. Errors of Postgres do not end it: until the row is claimed, the epoch still lets
/// the holder write.
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

/// Releases a lease, so that the next holder need not wait for its expiry. A lease that another process has
/// claimed stays with that process.
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

/// Locks the leased row until the transaction ends, so that its writes to other rows are fenced too.
///
/// # Errors
/// [`pg::Error::Fenced`] if another process claimed the row.
pub async fn hold<L: ItemLeases>(connection: &mut PgConnection, lease: &ItemLease) -> Result<(), pg::Error> {
    let held: Option<i32> =
        sqlx::query_scalar(L::HOLD).bind(lease.id).bind(lease.epoch).fetch_optional(connection).await?;
    held.map(|_| ()).ok_or(pg::Error::Fenced(Cow::Borrowed(L::NAME)))
}

/// Keeps a scanner from claiming leases that expired only because Postgres was unreachable.
///
/// After an outage every holder needs the chance to renew before any process claims: a scanner that lost
/// contact waits one TTL. A scanner that just started waits too, since it cannot know whether it had contact.
#[derive(Debug, Clone)]
pub struct Scanner {
    ttl: Duration,
    last: Option<Instant>,
    since: Option<Instant>,
}

impl Scanner {
    /// Builds the guard of a scanner of leases that last `ttl` and are renewed every third of it. The scanner
    /// must read at least every half of `ttl`.
    pub const fn new(ttl: Duration) -> Self {
        Self { ttl, last: None, since: None }
    }

    /// Records a successful read of Postgres at `now`. After a gap of more than half a TTL contact counts as
    /// lost: a holder may have renewed a third of a TTL before the gap and be about to expire.
    pub fn reached(&mut self, now: Instant) {
        let unbroken = self.last.is_some_and(|last| now.saturating_duration_since(last) <= self.ttl / 2);
        if !unbroken {
            self.since = Some(now);
        }
        self.last = Some(now);
    }

    /// Returns whether reads have succeeded without a gap for one TTL, so that expired leases may be claimed.
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
