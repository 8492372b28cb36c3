//! What a subject has outside Postgres, and what an owner's answer to Erase amounts to.

/// One thing outside Postgres, as its owner names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalObject {
    /// What it is, as `docker.volume`.
    pub kind: String,
    /// Who keeps it, as `docker:<engine id>`.
    pub provider: String,
    /// Its id there.
    pub object_id: String,
}

/// What became of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemOutcome {
    /// It was deleted now.
    Deleted,
    /// It was absent already.
    AlreadyGone,
    /// It could not be deleted now.
    Transient,
    /// It cannot be deleted.
    Permanent,
}

impl ItemOutcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Deleted, Self::AlreadyGone, Self::Transient, Self::Permanent];

    /// Its name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::AlreadyGone => "already_gone",
            Self::Transient => "transient",
            Self::Permanent => "permanent",
        }
    }

    /// Whether it is gone.
    #[must_use]
    pub const fn is_gone(self) -> bool {
        match self {
            Self::Deleted | Self::AlreadyGone => true,
            Self::Transient | Self::Permanent => false,
        }
    }
}

/// What became of one object, and why it is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemResult {
    /// The object.
    pub object: ExternalObject,
    /// What became of it.
    pub outcome: ItemOutcome,
    /// Why it is still there, UPPER_SNAKE; empty if it is not.
    pub code: String,
}

/// An owner's answer to one call of Erase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// Rows that it deleted in this call.
    pub rows: i64,
    /// What became of external objects in this call.
    pub items: Vec<ItemResult>,
    /// Whether nothing is left to do, by its own account.
    pub done: bool,
}

/// What to do about an owner's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is through.
    Done,
    /// Call again at once: it deletes in parts, and gets on.
    More,
    /// Call again later: something could not be deleted now, or nothing was deleted at all.
    Later,
    /// Something cannot be deleted; calling again changes nothing.
    Refused,
}

impl Erasure {
    /// What to do now. An owner that says "done" while something of it is still there is not believed.
    #[must_use]
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
    fn answers_are_judged_by_what_happened_and_not_by_what_is_claimed() {
        use ItemOutcome::{AlreadyGone, Deleted, Permanent, Transient};
        for (rows, outcomes, done, want) in [
            (0, &[][..], true, Verdict::Done),
            (7, &[Deleted, AlreadyGone], true, Verdict::Done),
            (7, &[], false, Verdict::More),
            (0, &[Deleted], false, Verdict::More),
            (7, &[Permanent], false, Verdict::More),
            (0, &[Deleted, Transient], false, Verdict::More),
            // It neither gets on nor is through: calling again at once would go round for ever.
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
