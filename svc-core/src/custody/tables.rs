//! The tables in which a service keeps data of subjects. From one declaration come the order in which an
//! erasure deletes from the tables, the counts of their rows, and the invariant that an erased subject has no
//! rows left.
//!
//! [`custody_tables!`](crate::custody_tables) concatenates the SQL statements from literals when the crate is
//! built, so no input can be injected. The compiler does not check them against the schema: a service's
//! schema test calls [`Tables::differences`], and its custody tests run every statement.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::custodian::Counts;
use crate::{
    data::{
        data_map::{self, Class},
        pg,
    },
    subject::Subject,
};

/// Maximum number of rows that one call of [`Tables::delete`] or [`Tables::delete_kind`] deletes, so that
/// `Erase` ends well before purge-svc's timeout.
pub const ERASE_AT_ONCE: i64 = 20_000;

/// Maximum number of rows that one statement deletes.
const ERASE_BATCH: i64 = 2_000;

/// A table that contains rows of subjects.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Name of the table in the contract, for example `chat.messages`.
    pub kind: &'static str,
    /// Name of the table in the schema.
    pub name: &'static str,
    /// SQL that deletes up to `$3` rows of account `$1`, and only those of session `$2` unless it is NULL.
    pub delete: &'static str,
}

/// The tables of a service, declared with [`custody_tables!`](crate::custody_tables).
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    /// The tables that `Erase` deletes from and `Verify` counts, in the order of deletion.
    pub erased: &'static [Table],
    /// The table with the subjects' own rows (accounts or sessions). `Commit` deletes from it last. `None` in
    /// a service that does not own subjects.
    pub head: Option<Table>,
    /// SQL that counts the rows of account `$1` in each table of `erased`, and returns the counts with their
    /// time. Counts only rows of session `$2` unless it is NULL.
    pub count: &'static str,
    /// SQL that returns whether account `$1`, or its session `$2` unless it is NULL, has a row in any table,
    /// `head` included.
    pub any: &'static str,
    /// SQL that lists up to `$1` erased subjects that still have a row in any table, `head` included.
    pub leftovers: &'static str,
}

/// Declares the tables of a service, in the order in which `Erase` deletes from them:
///
/// ```ignore
/// custody_tables! {
///     /// What chat-svc keeps of a session or an account.
///     pub static TABLES;
///     head "chat.sessions" => sessions(account_id, id);
///     "chat.turn_events" => turn_events through turns by turn_id;
///     "chat.messages" => messages;
/// }
/// ```
///
/// The string before `=>` is the table's name in the contract, the word after it the table. A row belongs to
/// the account in its column `account_id` and to the session in its column `session_id`, unless the
/// declaration says otherwise:
///
/// * `head`: the table has the subject's own row. `Erase` does not delete it, `Commit` deletes it last.
/// * `agents(account_id)` names the column of the account; the rows belong to no session.
/// * `sessions(account_id, id)` names the columns of the account and of the session.
/// * `turn_events through turns by turn_id`: a row belongs to the account and session of the row of `turns`
///   with its `turn_id` as `id`.
/// * `volumes if "state = 'gone'"`: `Erase` deletes only rows that satisfy the condition; `Verify` counts
///   all.
#[macro_export]
macro_rules! custody_tables {
    (
        $(#[$meta:meta])*
        $vis:vis static $name:ident;
        $(head $head_kind:literal => $head:ident $head_columns:tt;)?
        $(
            $kind:literal => $table:ident
            $(($($column:ident),+))? $(through $parent:ident by $key:ident)? $(if $ready:literal)?;
        )+
    ) => {
        $(#[$meta])*
        $vis static $name: $crate::custody::tables::Tables = $crate::custody::tables::Tables {
            erased: &[$(
                $crate::custody::tables::Table {
                    kind: $kind,
                    name: stringify!($table),
                    delete: $crate::custody_rows!(
                        delete $table [$($($column)+)?] [$($parent $key)?] [$($ready)?]
                    ),
                },
            )+],
            head: $crate::custody_rows!(head $($head_kind $head $head_columns)?),
            count: concat!(
                "SELECT ARRAY[",
                $(
                    "(SELECT count(*) FROM ",
                    $crate::custody_rows!(owned $table [$($($column)+)?] [$($parent $key)?]),
                    "), ",
                )+
                "0]::bigint[], clock_timestamp()",
            ),
            // The head comes first: for a live subject Postgres finds that row by its key and skips the rest.
            any: concat!(
                "SELECT ",
                $("EXISTS (SELECT FROM ", $crate::custody_rows!(owned $head $head_columns), ") OR ",)?
                $(
                    "EXISTS (SELECT FROM ",
                    $crate::custody_rows!(owned $table [$($($column)+)?] [$($parent $key)?]),
                    ") OR ",
                )+
                "false",
            ),
            leftovers: concat!(
                "SELECT c.subject_id FROM custody c WHERE c.state = 'erased' AND (",
                $($crate::custody_rows!(left $table [$($($column)+)?] [$($parent $key)?]), " OR ",)+
                $($crate::custody_rows!(left $head $head_columns), " OR ",)?
                "false) LIMIT $1",
            ),
        };
    };
}

/// Parts of SQL from which [`custody_tables!`](crate::custody_tables) builds its statements. In them `r` is a
/// row of the table, `o` the row of its parent and `c` the custody row.
#[doc(hidden)]
#[macro_export]
macro_rules! custody_rows {
    (head) => { None };
    (head $kind:literal $table:ident ($($column:ident),+)) => {
        Some($crate::custody::tables::Table {
            kind: $kind,
            name: stringify!($table),
            delete: $crate::custody_rows!(delete $table [$($column)+] [] []),
        })
    };

    (from $table:ident []) => { concat!(stringify!($table), " r") };
    (from $table:ident [$parent:ident $key:ident]) => {
        concat!(stringify!($table), " r JOIN ", stringify!($parent), " o ON o.id = r.", stringify!($key))
    };
    (account [] []) => { "r.account_id" };
    (account [] [$($parent:tt)+]) => { "o.account_id" };
    (account [$account:ident $($session:ident)?] []) => { concat!("r.", stringify!($account)) };
    (session [] []) => { "r.session_id" };
    (session [] [$($parent:tt)+]) => { "o.session_id" };
    (session [$account:ident] []) => { "NULL::uuid" };
    (session [$account:ident $session:ident] []) => { concat!("r.", stringify!($session)) };

    (owned $table:ident ($($column:ident),+)) => { $crate::custody_rows!(owned $table [$($column)+] []) };
    (owned $table:ident $columns:tt $parent:tt) => {
        concat!(
            $crate::custody_rows!(from $table $parent),
            " WHERE ", $crate::custody_rows!(account $columns $parent), " = $1",
            " AND ($2::uuid IS NULL OR ", $crate::custody_rows!(session $columns $parent), " = $2)",
        )
    };
    (delete $table:ident $columns:tt $parent:tt [$($ready:literal)?]) => {
        concat!(
            "DELETE FROM ", stringify!($table), " WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM ",
            $crate::custody_rows!(owned $table $columns $parent), $(" AND r.", $ready,)? " LIMIT $3))",
        )
    };
    (left $table:ident ($($column:ident),+)) => { $crate::custody_rows!(left $table [$($column)+] []) };
    (left $table:ident $columns:tt $parent:tt) => {
        concat!(
            "(c.kind = 'session' AND EXISTS (SELECT FROM ", $crate::custody_rows!(from $table $parent),
            " WHERE ", $crate::custody_rows!(session $columns $parent), " = c.subject_id))",
            " OR (c.kind = 'account' AND EXISTS (SELECT FROM ", $crate::custody_rows!(from $table $parent),
            " WHERE ", $crate::custody_rows!(account $columns $parent), " = c.subject_id))",
        )
    };
}

impl Tables {
    /// Returns the contract's names of the tables that `Erase` deletes from and `Verify` counts.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.erased.iter().map(|table| table.kind)
    }

    /// Returns whether any table, the head included, has a row of `subject`.
    ///
    /// # Errors
    /// [`pg::Error`] if the rows cannot be read.
    pub async fn any(&self, db: &mut PgConnection, subject: Subject) -> Result<bool, pg::Error> {
        let (account, session) = ids(subject);
        Ok(sqlx::query_scalar(self.any).bind(account).bind(session).fetch_one(db).await?)
    }

    /// Deletes up to [`ERASE_AT_ONCE`] rows of `subject`, table by table, and adds the number of each table
    /// to `deleted`. Returns true if no row that may be deleted is left; if false, the caller commits and
    /// calls again.
    ///
    /// # Errors
    /// [`pg::Error`] if the rows were not deleted.
    pub async fn delete(
        &self,
        db: &mut PgConnection,
        subject: Subject,
        deleted: &mut Counts,
    ) -> Result<bool, pg::Error> {
        let mut left = ERASE_AT_ONCE;
        for table in self.erased {
            left -= table.delete(db, subject, left, deleted).await?;
            if left == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does the same as [`Self::delete`], but only for the table that the contract calls `kind`.
    ///
    /// # Errors
    /// [`pg::Error`] if the rows were not deleted.
    pub async fn delete_kind(
        &self,
        db: &mut PgConnection,
        kind: &str,
        subject: Subject,
        deleted: &mut Counts,
    ) -> Result<bool, pg::Error> {
        let mut gone = 0;
        for table in self.erased.iter().filter(|table| table.kind == kind) {
            gone += table.delete(db, subject, ERASE_AT_ONCE, deleted).await?;
        }
        Ok(gone < ERASE_AT_ONCE)
    }

    /// Deletes the rows of `subject` in the head's table.
    ///
    /// # Errors
    /// [`pg::Error`] if the rows were not deleted.
    pub async fn delete_heads(&self, db: &mut PgConnection, subject: Subject) -> Result<(), pg::Error> {
        if let Some(head) = &self.head {
            head.delete(db, subject, i64::MAX, &mut Counts::new()).await?;
        }
        Ok(())
    }

    /// Counts the rows of `subject` in each table of `erased`, zeros included. Also returns the time of the
    /// count, by the clock of Postgres.
    ///
    /// # Errors
    /// [`pg::Error`] if the rows cannot be counted.
    pub async fn count(
        &self,
        db: &mut PgConnection,
        subject: Subject,
    ) -> Result<(Counts, DateTime<Utc>), pg::Error> {
        let (account, session) = ids(subject);
        let (counts, at): (Vec<i64>, DateTime<Utc>) =
            sqlx::query_as(self.count).bind(account).bind(session).fetch_one(db).await?;
        Ok((self.kinds().map(str::to_owned).zip(counts).collect(), at))
    }

    /// Returns up to `limit` erased subjects that still have rows. A correct service has none.
    ///
    /// # Errors
    /// [`pg::Error`] if the rows cannot be read.
    pub async fn leftovers(&self, db: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, pg::Error> {
        Ok(sqlx::query_scalar(self.leftovers).bind(limit).fetch_all(db).await?)
    }

    /// Returns the tables by which the declaration and the live schema differ: those that are declared but
    /// not annotated with the class `session` or `account`, and those that are annotated so but not declared.
    ///
    /// # Errors
    /// [`pg::Error`] if the catalogue cannot be read.
    pub async fn differences(&self, db: &mut PgConnection) -> Result<BTreeSet<String>, pg::Error> {
        let of_subjects = |place: &data_map::Place| match place.class {
            Some(Class::Session | Class::Account) => place.column.is_none(),
            Some(Class::Ledger | Class::System) | None => false,
        };
        let places = data_map::read(db).await?;
        let annotated: BTreeSet<_> =
            places.into_iter().filter(of_subjects).map(|place| place.table).collect();
        let declared = self.erased.iter().chain(&self.head).map(|table| table.name.to_owned()).collect();
        Ok(annotated.symmetric_difference(&declared).cloned().collect())
    }
}

impl Table {
    /// Deletes up to `limit` rows of `subject` in batches, adds their number to `deleted` and returns it.
    async fn delete(
        &self,
        db: &mut PgConnection,
        subject: Subject,
        limit: i64,
        deleted: &mut Counts,
    ) -> Result<i64, pg::Error> {
        let (account, session) = ids(subject);
        let mut gone = 0;
        while gone < limit {
            let batch = ERASE_BATCH.min(limit - gone);
            let done =
                sqlx::query(self.delete).bind(account).bind(session).bind(batch).execute(&mut *db).await?;
            let rows = i64::try_from(done.rows_affected()).unwrap_or(batch);
            gone += rows;
            if rows < batch {
                break;
            }
        }
        match deleted.iter_mut().find(|(kind, _)| kind == self.kind) {
            Some((_, total)) => *total += gone,
            None => deleted.push((self.kind.to_owned(), gone)),
        }
        Ok(gone)
    }
}

fn ids(subject: Subject) -> (Uuid, Option<Uuid>) {
    (subject.account().0, subject.session().map(|session| session.0))
}

#[cfg(test)]
mod tests {
    custody_tables! {
        static TABLES;
        head "x.sessions" => sessions(account_id, id);
        "x.events" => events through turns by turn_id;
        "x.volumes" => volumes if "state = 'gone'";
        "x.agents" => agents(account_id);
    }

    const OWNED: &str = " WHERE r.account_id = $1 AND ($2::uuid IS NULL OR ";

    fn delete(table: &str, rest: &str) -> String {
        format!("DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM {table} r{rest} LIMIT $3))")
    }

    #[test]
    fn statements_select_the_rows_of_the_subject() {
        assert_eq!(TABLES.kinds().collect::<Vec<_>>(), ["x.events", "x.volumes", "x.agents"]);
        let statements: Vec<_> = TABLES.erased.iter().chain(&TABLES.head).map(|table| table.delete).collect();
        let through = " JOIN turns o ON o.id = r.turn_id WHERE o.account_id = $1 \
                       AND ($2::uuid IS NULL OR o.session_id = $2)";
        assert_eq!(
            statements,
            [
                delete("events", through),
                delete("volumes", &format!("{OWNED}r.session_id = $2) AND r.state = 'gone'")),
                delete("agents", &format!("{OWNED}NULL::uuid = $2)")),
                delete("sessions", &format!("{OWNED}r.id = $2)")),
            ]
        );
    }
}
