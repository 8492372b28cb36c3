//! What went wrong in the database, by what the caller should do about it.

use std::{borrow::Cow, error::Error as StdError, time::Duration};

use sqlx::postgres::PgDatabaseError;

use crate::{
    subject::SubjectKind,
    wire::error::{ErrorKind, PublicError, ServiceError},
};

/// Result of a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// When to come back after a lost connection: about the time a fail-over or a restart begins to show an end.
const RECONNECT: Duration = Duration::from_secs(2);

/// When to come back after a lock or a statement took too long.
const RELIEF: Duration = Duration::from_secs(1);

/// A constraint that a write would break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// There is such a row already.
    Unique,
    /// A row that it refers to is missing, or one that is to go is still referred to.
    ForeignKey,
    /// A value is out of bounds: a defect, since domain types come first.
    Check,
    /// It overlaps with another row.
    Exclusion,
}

/// What went wrong in the database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres is away, shutting down, starting, or has no connection left. Nothing was done.
    #[error("Postgres is not available")]
    Unavailable {
        /// When to come back.
        retry_after: Duration,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// The connection broke while a commit was under way: it may or may not have happened.
    #[error("connection lost during commit, outcome unknown")]
    CommitUnknown(#[source] sqlx::Error),
    /// Another transaction held a lock for too long.
    #[error("waited too long for a lock")]
    LockTimeout(#[source] sqlx::Error),
    /// A statement took too long.
    #[error("statement took too long")]
    StatementTimeout(#[source] sqlx::Error),
    /// A transaction stood open between two statements for too long and was ended: a defect.
    #[error("transaction was idle for too long")]
    IdleInTransaction(#[source] sqlx::Error),
    /// Serialization failure or deadlock: redo the transaction.
    #[error("lost a race with another transaction")]
    Race(#[source] sqlx::Error),
    /// A constraint does not allow it.
    #[error("{kind:?} constraint {constraint} does not allow it")]
    Conflict {
        /// What the constraint demands.
        kind: ConflictKind,
        /// Its name.
        constraint: String,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// A guarded write did not hit the rows it was meant for: somebody else was first.
    #[error("guarded write hit {affected} rows instead of {expected}")]
    Stale {
        /// Rows it was meant for.
        expected: u64,
        /// Rows it hit.
        affected: u64,
    },
    /// The lease under which the write was made belongs to somebody else by now. Nothing was written.
    #[error("lease {0} is lost")]
    Fenced(Cow<'static, str>),
    /// The subject is being erased: nothing of it may be written.
    #[error("{0} is frozen by an erasure")]
    SubjectFrozen(SubjectKind),
    /// There is no such subject: never was, is another tenant's, or it was erased.
    #[error("{kind} is {}", if *erased { "erased" } else { "unknown" })]
    SubjectNotFound {
        /// What is not there.
        kind: SubjectKind,
        /// Whether it once was.
        erased: bool,
    },
    /// A row does not make sense to this program: a defect, or a migration that went wrong.
    #[error("row of {table} cannot be read at {column}{}", row.as_deref().map(|row| format!(" ({row})")).unwrap_or_default())]
    Inconsistency {
        /// The table, or "a query" if only the driver noticed.
        table: &'static str,
        /// The column.
        column: String,
        /// Key of the row, if known.
        row: Option<String>,
        /// What is wrong with it.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The transaction had failed before it was committed: a statement's error was not passed on. A defect.
    #[error("transaction had failed before its commit")]
    Poisoned(#[source] sqlx::Error),
    /// Anything else the driver says: a defect.
    #[error("database error")]
    Driver(#[source] sqlx::Error),
}

impl Error {
    /// A row of `table` whose `column` makes no sense.
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

    /// Whether this is a breach of the named constraint.
    #[must_use]
    pub fn violates(&self, name: &str) -> bool {
        matches!(self, Self::Conflict { constraint, .. } if constraint == name)
    }

    /// Whether the same transaction, begun anew, may succeed at once.
    #[must_use]
    pub const fn is_race(&self) -> bool {
        matches!(self, Self::Race(_))
    }

    /// Whether Postgres itself is away, as against this one statement being refused.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::CommitUnknown(_))
    }
}

/// Every error of the driver gets its meaning here and nowhere else.
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
            // A connection that ends while it is being made is read as a broken protocol.
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

/// Meaning of a SQLSTATE (appendix A of the Postgres manual).
fn by_sqlstate(code: &str, constraint: String, source: sqlx::Error) -> Error {
    let conflict = |kind, source| Error::Conflict { kind, constraint, source };
    match code {
        // 08: connection exceptions. 57P01–57P05: shutdown, crash, starting up, dropped, idle session.
        // 53300: no connection slot left. 53100, 53200: disk or memory of the server is full.
        _ if code.starts_with("08") => Error::Unavailable { retry_after: RECONNECT, source },
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "53100" | "53200" | "53300" => {
            Error::Unavailable { retry_after: RECONNECT, source }
        }
        // The server became a standby: its connections must move to the new primary.
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
                PublicError::of_kind(Aborted, "somebody else changed it at the same time")
            }
            Self::Fenced(_) => {
                PublicError::new(Aborted, "LEASE_LOST", "somebody else has taken over this work")
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

/// Makes sure that a guarded write hit exactly `expected` rows.
///
/// # Errors
/// [`Error::Stale`] otherwise.
pub fn ensure_affected(done: &sqlx::postgres::PgQueryResult, expected: u64) -> Result<()> {
    match done.rows_affected() {
        affected if affected == expected => Ok(()),
        affected => Err(Error::Stale { expected, affected }),
    }
}
