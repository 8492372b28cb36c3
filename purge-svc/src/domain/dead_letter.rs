//! Dead letters: objects that a custodian cannot delete until an operator has acted.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// One object that could not be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub dead_letter_id: Uuid,
    /// The job that waits for it.
    pub purge_id: Uuid,
    /// The service that could not delete the object.
    pub custodian: String,
    /// Kind of the object, as `docker.volume`.
    pub kind: String,
    /// The system that keeps the object.
    pub provider: String,
    /// Id of the object there; `None` once the subject is erased.
    pub object_id: Option<String>,
    /// Why the object cannot be deleted, UPPER_SNAKE.
    pub code: String,
    pub created_at: DateTime<Utc>,
    pub resolved_at: Option<DateTime<Utc>>,
}
