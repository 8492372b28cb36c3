//! Errors of the database, classified by what the caller should do.

use std::{borrow::Cow, error::Error as StdError, time::Duration};

use sqlx::postgres::PgDatabaseError;

use crate::{
    error::{ErrorKind, PublicError, ServiceError},
    subject::SubjectKind,
};

/// Result of a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Delay before a retry after a lost connection: about the time in which a fail-over or restart makes
/// progress.
const RECONNECT: Duration = Duration::from_secs(2);

/// Delay before a retry after a lock wait or a statement ran into its time limit.
const RELIEF: Duration = Duration::from_secs(1);

/// A constraint that a write would break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// The row exists already.
    Unique,
    /// A referenced row is missing, or a row to be deleted is still referenced.
    ForeignKey,
    /// A value is out of bounds: a defect, because domain types check values first.
    Check,
    /// The row overlaps with another one.
    Exclusion,
}

/// An error of the database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres cannot be reached, is starting, stopping or a standby, or lacks a free connection, memory or
    /// disk space. A transaction with this error is not committed; a single statement outside a transaction
    /// may have taken effect if its connection was lost.
    #[error("Postgres is not available")]
    Unavailable {
        /// Delay before the next attempt.
        retry_after: Duration,
        #[source]
        source: sqlx::Error,
    },
    /// The connection broke during a commit: the transaction may or may not be committed.
    #[error("connection lost during commit, outcome unknown")]
    CommitUnknown(#[source] sqlx::Error),
    /// Another transaction held a lock for too long.
    #[error("waited too long for a lock")]
    LockTimeout(#[source] sqlx::Error),
    /// A statement ran into its time limit.
    #[error("statement took too long")]
    StatementTimeout(#[source] sqlx::Error),
    /// Postgres ended a transaction that was idle between two statements for too long: a defect.
    #[error("transaction was idle for too long")]
    IdleInTransaction(#[source] sqlx::Error),
    /// A serialization failure or a deadlock. The caller should begin the transaction again.
    #[error("lost a race with another transaction")]
    Race(#[source] sqlx::Error),
    /// A constraint forbids the write.
    #[error("{kind:?} constraint {constraint} does not allow it")]
    Conflict {
        /// Kind of the constraint.
        kind: ConflictKind,
        constraint: String,
        #[source]
        source: sqlx::Error,
    },
    /// A write with a condition changed fewer or more rows than expected, because another writer changed them
    /// first.
    #[error("guarded write hit {affected} rows instead of {expected}")]
    Stale {
        /// Number of rows that the write should change.
        expected: u64,
        affected: u64,
    },
    /// The lease under which the write was made was taken over by another worker, or released. Nothing was
    /// written.
    #[error("lease {0} is lost")]
    Fenced(Cow<'static, str>),
    /// A purge has frozen the subject or is erasing it; its data may not be written.
    #[error("{0} is frozen by an erasure")]
    SubjectFrozen(SubjectKind),
    /// The subject is unknown to this service, is another tenant's, or was erased.
    #[error("{kind} is {}", if *erased { "erased" } else { "unknown" })]
    SubjectNotFound {
        /// Kind of the missing subject.
        kind: SubjectKind,
        /// Whether the subject was erased.
        erased: bool,
    },
    /// A row that this program cannot read: a defect, or a faulty migration.
    #[error("row of {table} cannot be read at {column}{}", in_brackets(row.as_deref()))]
    Inconsistency {
        /// Name of the table, or "a query" if the driver reported the error.
        table: &'static str,
        column: String,
        /// Key of the row, if known.
        row: Option<String>,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A statement of the transaction had failed, and the code committed nevertheless: a defect.
    #[error("transaction had failed before its commit")]
    Poisoned(#[source] sqlx::Error),
    /// Any other error of the driver: a defect.
    #[error("database error")]
    Driver(#[source] sqlx::Error),
}

impl Error {
    /// Builds the error of a row of `table` with an unreadable `column`.
    pub fn inconsistent(
        table: &'static str,
        column: &'static str,
        row: impl ToString,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Inconsistency {
            table,
            column: column.to_owned(),
            row: Some(row.to_string()),
            source: source.into(),
        }
    }

    /// Returns whether the write broke the constraint with this name.
    pub fn violates(&self, name: &str) -> bool {
        matches!(self, Self::Conflict { constraint, .. } if constraint == name)
    }

    /// Returns whether the same transaction may succeed if it is begun again at once.
    pub const fn is_race(&self) -> bool {
        matches!(self, Self::Race(_))
    }

    /// Returns whether Postgres itself is unreachable, as opposed to one refused statement.
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::CommitUnknown(_))
    }
}

fn in_brackets(row: Option<&str>) -> String {
    row.map_or_else(String::new, |row| format!(" ({row})"))
}

/// Classifies the errors of sqlx. No other code does.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => {
                let constraint = database.constraint().unwrap_or_default().to_owned();
                match database.try_downcast_ref::<PgDatabaseError>().map(|error| error.code().to_owned()) {
                    Some(code) => by_sqlstate(&code, constraint, error),
                    None => Self::Driver(error),
                }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            // sqlx returns `Protocol` if the server closes the connection before it answers the TLS request.
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Self::Unavailable { retry_after: RECONNECT, source: error },
            sqlx::Error::ColumnDecode { index, .. } => Self::Inconsistency {
                table: "a query",
                column: index.clone(),
                row: None,
                source: error.into(),
            },
            sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) | sqlx::Error::TypeNotFound { .. } => {
                Self::Inconsistency {
                    table: "a query",
                    column: "?".to_owned(),
                    row: None,
                    source: error.into(),
                }
            }
            _ => Self::Driver(error),
        }
    }
}

/// Classifies a SQLSTATE (appendix A of the Postgres manual).
fn by_sqlstate(code: &str, constraint: String, source: sqlx::Error) -> Error {
    let conflict = |kind, source| Error::Conflict { kind, constraint, source };
    match code {
        // 08: connection exceptions. 57P01–57P05: shutdown, crash, starting up, dropped, idle session.
        // 53300: no connection slot left. 53100, 53200: disk or memory of the server is full.
        _ if code.starts_with("08") => Error::Unavailable { retry_after: RECONNECT, source },
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "53100" | "53200" | "53300" => {
            Error::Unavailable { retry_after: RECONNECT, source }
        }
        // The server has become a standby; the next connection must find the new primary.
        "25006" => Error::Unavailable { retry_after: RECONNECT, source },
        "40001" | "40P01" => Error::Race(source),
        "55P03" => Error::LockTimeout(source),
        "57014" => Error::StatementTimeout(source),
        "25P03" => Error::IdleInTransaction(source),
        "25P02" => Error::Poisoned(source),
        "23505" => conflict(ConflictKind::Unique, source),
        "23503" => conflict(ConflictKind::ForeignKey, source),
        "23514" => conflict(ConflictKind::Check, source),
        "23P01" => conflict(ConflictKind::Exclusion, source),
        _ => Error::Driver(source),
    }
}

impl ServiceError for Error {
    fn public(&self) -> PublicError {
        use ErrorKind::{
            Aborted, AlreadyExists, DeadlineExceeded, FailedPrecondition, NotFound, Unavailable,
        };
        match self {
            Self::Unavailable { retry_after, .. } => {
                PublicError::of_kind(Unavailable, "storage is not available").retry_after(*retry_after)
            }
            Self::LockTimeout(_) | Self::StatementTimeout(_) => {
                PublicError::of_kind(Unavailable, "storage is busy").retry_after(RELIEF)
            }
            Self::CommitUnknown(_) => PublicError::new(
                DeadlineExceeded,
                "OUTCOME_UNKNOWN",
                "outcome unknown: repeat with the same idempotency key",
            ),
            Self::Race(_) | Self::Stale { .. } => {
                PublicError::of_kind(Aborted, "another request changed it at the same time")
            }
            Self::Fenced(_) => {
                PublicError::new(Aborted, "LEASE_LOST", "another worker has taken over this work")
            }
            Self::Conflict { kind, .. } => match kind {
                ConflictKind::Unique | ConflictKind::Exclusion => {
                    PublicError::of_kind(AlreadyExists, "it exists already")
                }
                ConflictKind::ForeignKey => {
                    PublicError::of_kind(FailedPrecondition, "something it depends on is missing")
                }
                ConflictKind::Check => PublicError::internal(),
            },
            Self::SubjectFrozen(kind) => {
                PublicError::new(FailedPrecondition, "SUBJECT_FROZEN", format!("this {kind} is being erased"))
            }
            Self::SubjectNotFound { kind, .. } => PublicError::of_kind(NotFound, format!("no such {kind}")),
            Self::IdleInTransaction(_) | Self::Inconsistency { .. } | Self::Poisoned(_) | Self::Driver(_) => {
                PublicError::internal()
            }
        }
    }
}

/// Checks that a write with a condition changed exactly `expected` rows.
///
/// # Errors
/// [`Error::Stale`] otherwise.
pub fn ensure_affected(done: &sqlx::postgres::PgQueryResult, expected: u64) -> Result<()> {
    match done.rows_affected() {
        affected if affected == expected => Ok(()),
        affected => Err(Error::Stale { expected, affected }),
    }
}
