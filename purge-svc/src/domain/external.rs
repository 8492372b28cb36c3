//! Objects outside Postgres, and what the worker does after a custodian's answer to Erase.

/// An object outside Postgres, as its custodian names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalObject {
    /// Kind of the object, as `docker.volume`.
    pub kind: String,
    /// The system that keeps it, as `docker:<engine id>`.
    pub provider: String,
    /// Id in that system.
    pub object_id: String,
}

/// Result of deleting one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemOutcome {
    /// The object was deleted by this call.
    Deleted,
    /// The object was already absent.
    AlreadyGone,
    /// The object could not be deleted at present.
    Transient,
    /// The object cannot be deleted.
    Permanent,
}

impl ItemOutcome {
    /// Name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::AlreadyGone => "already_gone",
            Self::Transient => "transient",
            Self::Permanent => "permanent",
        }
    }

    /// Returns whether the object no longer exists.
    pub const fn is_gone(self) -> bool {
        match self {
            Self::Deleted | Self::AlreadyGone => true,
            Self::Transient | Self::Permanent => false,
        }
    }
}

/// Result for one object, with the reason if the object still exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemResult {
    pub object: ExternalObject,
    pub outcome: ItemOutcome,
    /// Why the object still exists, UPPER_SNAKE; otherwise empty.
    pub code: String,
}

/// A custodian's answer to one call of Erase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// Number of rows that the call deleted.
    pub rows: i64,
    /// Results for external objects.
    pub items: Vec<ItemResult>,
    /// Whether the custodian says that nothing is left to do.
    pub done: bool,
}

/// Next action of the worker after an answer to Erase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The custodian is done.
    Done,
    /// Call again at once: the custodian deletes in parts, and this call made progress.
    More,
    /// Call again later: an object could not be deleted at present, or the call made no progress.
    Later,
    /// An object cannot be deleted; another call would change nothing.
    Refused,
}

impl Erasure {
    /// Returns what the worker does next. While an object still exists, `done` does not make the verdict
    /// `Done`.
    pub fn verdict(&self) -> Verdict {
        let any = |outcome| self.items.iter().any(|item| item.outcome == outcome);
        let progress = self.rows > 0 || any(ItemOutcome::Deleted);
        match (any(ItemOutcome::Permanent), any(ItemOutcome::Transient)) {
            (false, false) if self.done => Verdict::Done,
            _ if !self.done && progress => Verdict::More,
            (true, _) => Verdict::Refused,
            (false, _) => Verdict::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erasure(rows: i64, outcomes: &[ItemOutcome], done: bool) -> Erasure {
        let item = |outcome: &ItemOutcome| ItemResult {
            object: ExternalObject {
                kind: "k".to_owned(),
                provider: "p".to_owned(),
                object_id: "o".to_owned(),
            },
            outcome: *outcome,
            code: String::new(),
        };
        Erasure { rows, items: outcomes.iter().map(item).collect(), done }
    }

    #[test]
    fn answers_are_judged_by_their_results() {
        use ItemOutcome::{AlreadyGone, Deleted, Permanent, Transient};
        for (rows, outcomes, done, want) in [
            (0, &[][..], true, Verdict::Done),
            (7, &[Deleted, AlreadyGone], true, Verdict::Done),
            (7, &[], false, Verdict::More),
            (0, &[Deleted], false, Verdict::More),
            (7, &[Permanent], false, Verdict::More),
            (0, &[Deleted, Transient], false, Verdict::More),
            // The answer shows neither progress nor the end, so calling again at once would never end.
            (0, &[], false, Verdict::Later),
            (0, &[AlreadyGone], false, Verdict::Later),
            (0, &[Transient], false, Verdict::Later),
            (0, &[Transient], true, Verdict::Later),
            (0, &[Permanent], false, Verdict::Refused),
            (0, &[Permanent, Transient], false, Verdict::Refused),
            (3, &[Permanent], true, Verdict::Refused),
        ] {
            assert_eq!(erasure(rows, outcomes, done).verdict(), want, "{rows} {outcomes:?} {done}");
        }
    }
}
