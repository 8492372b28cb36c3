//! Sessions: what a tenant may say about one, and what its input policy does with a second input.

use svc_core::{id::TurnId, wire::error::Invalid};

/// Longest title, characters.
pub const MAX_TITLE_CHARS: usize = 200;

/// Longest input, bytes.
pub const MAX_INPUT_BYTES: usize = 256 * 1024;

/// Longest name of a route, bytes.
pub const MAX_ROUTE_BYTES: usize = 64;

/// The route of a session that names none.
pub const DEFAULT_ROUTE: &str = "default";

/// What happens to an input while an earlier turn of the session is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputPolicy {
    /// It waits its turn.
    Queue,
    /// It is refused.
    Reject,
    /// What runs or waits is canceled, and the new turn follows.
    Interrupt,
}

impl InputPolicy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Queue, Self::Reject, Self::Interrupt];
}

/// What becomes of a new input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It becomes a turn.
    Accept,
    /// It becomes a turn once these are canceled, in the same transaction.
    Interrupt(Vec<TurnId>),
    /// It is refused: an earlier turn is not final.
    InFlight,
    /// It is refused: too many turns wait already.
    QueueFull,
}

/// Decides on a new input, given the session's turns that are not final.
#[must_use]
pub fn admit(policy: InputPolicy, open: &[TurnId], max_open: usize) -> Admission {
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

/// A title as a caller gave it.
///
/// # Errors
/// [`Invalid`] if it is too long or holds control characters.
pub fn parse_title(text: &str) -> Result<String, Invalid> {
    if text.chars().count() > MAX_TITLE_CHARS {
        return Err(Invalid::new("title", "must have at most 200 characters"));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new("title", "must not hold control characters"));
    }
    Ok(text.to_owned())
}

/// An input as a caller gave it.
///
/// # Errors
/// [`Invalid`] if it is empty, too long, or holds a NUL (which Postgres cannot keep in text).
pub fn parse_input(text: &str) -> Result<String, Invalid> {
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
        for policy in InputPolicy::ALL {
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
