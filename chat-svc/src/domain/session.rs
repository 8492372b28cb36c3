//! Sessions: their fields, and the policy for an input that comes while an earlier turn is open.

use chrono::{DateTime, Utc};
use svc_core::id::{AccountId, SessionId, TurnId};

/// The route of a session that names none.
pub(crate) const DEFAULT_ROUTE: &str = "default";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub id: SessionId,
    pub account_id: AccountId,
    /// Free text of the tenant.
    pub title: String,
    pub input_policy: InputPolicy,
    /// Named list of models.
    pub route: String,
    pub created_at: DateTime<Utc>,
    /// When its last turn was accepted or ended.
    pub updated_at: DateTime<Utc>,
}

/// Treatment of an input while an earlier turn of the session is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputPolicy {
    /// The input waits until the earlier turns are final.
    Queue,
    /// The input is refused.
    Reject,
    /// The open turns are canceled, and the new turn follows.
    Interrupt,
}

/// Decision on a new input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The input becomes a turn.
    Accept,
    /// The input becomes a turn after these turns are canceled, in the same transaction.
    Interrupt(Vec<TurnId>),
    /// Refused: an earlier turn is not final.
    InFlight,
    /// Refused: the session has its maximum of open turns.
    QueueFull,
}

/// Decides on a new input. `open` are the session's turns that are not final. With [`InputPolicy::Queue`] a
/// session may have at most `max_open` of them.
pub(crate) fn admit(policy: InputPolicy, open: &[TurnId], max_open: usize) -> Admission {
    if open.is_empty() {
        return Admission::Accept;
    }
    match policy {
        InputPolicy::Queue if open.len() >= max_open => Admission::QueueFull,
        InputPolicy::Queue => Admission::Accept,
        InputPolicy::Reject => Admission::InFlight,
        InputPolicy::Interrupt => Admission::Interrupt(open.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_decides_on_an_idle_and_on_a_busy_session() {
        let open = vec![TurnId::new(), TurnId::new()];
        for policy in [InputPolicy::Queue, InputPolicy::Reject, InputPolicy::Interrupt] {
            assert_eq!(admit(policy, &[], 2), Admission::Accept, "{policy:?}");
        }
        assert_eq!(admit(InputPolicy::Queue, &open, 3), Admission::Accept);
        assert_eq!(admit(InputPolicy::Queue, &open, 2), Admission::QueueFull);
        assert_eq!(admit(InputPolicy::Reject, &open, 3), Admission::InFlight);
        assert_eq!(admit(InputPolicy::Interrupt, &open, 1), Admission::Interrupt(open));
    }
}
