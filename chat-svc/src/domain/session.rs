//! Sessions: their fields, and what the input policy does with an input while an earlier turn is open.

use chrono::{DateTime, Utc};
use svc_core::{
    error::Invalid,
    id::{AccountId, SessionId, TurnId},
};

/// Maximum characters of a title.
pub(crate) const MAX_TITLE_CHARS: usize = 200;

/// Maximum bytes of an input.
pub(crate) const MAX_INPUT_BYTES: usize = 256 * 1024;

/// Maximum bytes of a route's name.
pub(crate) const MAX_ROUTE_BYTES: usize = 64;

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

/// Decides on a new input. `open` are the session's turns that are not final, at most `max_open`.
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

/// Checks a title.
///
/// # Errors
/// [`Invalid`] if the title is too long or has control characters.
pub(crate) fn parse_title(text: &str) -> Result<String, Invalid> {
    if text.chars().count() > MAX_TITLE_CHARS {
        return Err(Invalid::new("title", "must have at most 200 characters"));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new("title", "must not hold control characters"));
    }
    Ok(text.to_owned())
}

/// Checks an input.
///
/// # Errors
/// [`Invalid`] if the input is empty, too long, or has a NUL, which Postgres cannot store in text.
pub(crate) fn parse_input(text: &str) -> Result<String, Invalid> {
    if text.trim().is_empty() {
        return Err(Invalid::new("input", "is required"));
    }
    if text.len() > MAX_INPUT_BYTES {
        return Err(Invalid::new("input", "must have at most 262144 bytes"));
    }
    if text.contains('\0') {
        return Err(Invalid::new("input", "must not hold NUL characters"));
    }
    Ok(text.to_owned())
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

    #[test]
    fn titles_and_inputs_have_bounds() {
        assert!(parse_title(&"é".repeat(200)).is_ok());
        assert!(parse_title(&"é".repeat(201)).is_err());
        assert!(parse_title("a\nb").is_err());
        assert!(parse_input("hello\nworld").is_ok());
        for bad in ["", "  \n", "a\0b", &"x".repeat(MAX_INPUT_BYTES + 1)] {
            assert_eq!(parse_input(bad).unwrap_err().field, "input");
        }
    }
}
