//! Deadlines of calls. The earlier of the caller's deadline and the service's own limit applies. A service
//! passes it on to the services that it calls, with [`Caller::by`](crate::wire::client::Caller::by).

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// gRPC's header for the time left until the deadline.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The instant by which a request must be answered. The server puts it into the extensions of every unary
/// request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    pub fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout)
    }

    /// Returns the time left; zero after the deadline.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Writes the time left into the metadata of an outgoing call.
    pub fn stamp(self, metadata: &mut MetadataMap) {
        // Sends at least one millisecond, because some servers refuse "0m".
        let left = self.left().as_millis().clamp(1, 99_999_999);
        if let Ok(value) = format!("{left}m").parse() {
            metadata.insert(GRPC_TIMEOUT, value);
        }
    }
}

/// Reads gRPC's timeout format: up to eight digits and a unit of `H M S m u n`.
pub fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let unit_at = text.len().checked_sub(1)?;
    let (digits, unit) = text.split_at_checked(unit_at)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_says() {
        for (text, want) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("123456789S", None),
            ("1x", None),
            ("1é", None),
        ] {
            assert_eq!(parse_grpc_timeout(text), want, "{text:?}");
        }
    }
}
