//! Decides, after an attempt to deliver a message, whether the message is delivered, retried or failed.

use std::time::Duration;

use svc_core::run::backoff::Backoff;

use super::a2a::Outcome;

/// Reason for which a message ended without an answer, or was queued again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No connection could be opened.
    Unreachable,
    /// The agent asked to retry later.
    Busy,
    /// The connection broke before the answer was complete.
    ConnectionLost,
    /// The agent did not answer within the timeout.
    NoAnswer,
    /// The agent refused the message with an HTTP status and no JSON-RPC answer.
    Rejected,
    /// The agent's answer is not JSON-RPC, or too long.
    InvalidAnswer,
    /// The outbound policy forbids the agent's URL.
    UrlRefused,
    /// The message has no equivalent in the agent's A2A version.
    NotTranslatable,
    /// The message has used up the attempts that may have arrived.
    AttemptsExhausted,
    Expired,
    Canceled,
    AgentRemoved,
}

impl Problem {
    /// Returns the code that callers read. Codes are part of the API and never change.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Unreachable => "UNREACHABLE",
            Self::Busy => "BUSY",
            Self::ConnectionLost => "CONNECTION_LOST",
            Self::NoAnswer => "NO_ANSWER",
            Self::Rejected => "REJECTED",
            Self::InvalidAnswer => "INVALID_ANSWER",
            Self::UrlRefused => "URL_REFUSED",
            Self::NotTranslatable => "NOT_TRANSLATABLE",
            Self::AttemptsExhausted => "ATTEMPTS_EXHAUSTED",
            Self::Expired => "EXPIRED",
            Self::Canceled => "CANCELED",
            Self::AgentRemoved => "AGENT_REMOVED",
        }
    }
}

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Attempt {
    Answered {
        status: u16,
        /// The JSON-RPC answer, if the body was one.
        outcome: Option<Outcome>,
        retry_after: Option<Duration>,
    },
    /// No byte of the request was sent.
    NotSent,
    /// The connection broke; the request may have arrived.
    Broken,
    /// The request was sent and no answer came within the timeout.
    TimedOut,
    TooLong,
    UrlRefused,
    NotTranslatable,
}

/// The decision after an attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// The agent answered; the message ends.
    Delivered(Outcome),
    Retry {
        after: Duration,
        problem: Problem,
        /// Whether this attempt may have arrived.
        arrived: bool,
    },
    GivenUp(Problem),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// Maximum attempts that may have arrived.
    pub max_arrivals: i32,
    pub backoff: Backoff,
}

/// Decides what follows from an attempt. `attempts` counts the attempts of the message, this one included;
/// `arrivals` counts those that may have reached the agent; `draw` in 0..1 spreads the retries.
///
/// A JSON-RPC answer ends the message whatever its HTTP status, unless the status asks to retry (such as 429
/// or 503). A message that was not sent is retried until it expires. A message that may have arrived is
/// retried until `max_arrivals` attempts may have arrived, under the same message id. A message that times
/// out fails, because another attempt could make the agent do the work twice.
pub(crate) fn decide(
    attempt: Attempt,
    attempts: i32,
    arrivals: i32,
    policy: &RetryPolicy,
    draw: f64,
) -> Verdict {
    let retry = |problem: Problem, arrived: bool, asked: Option<Duration>| {
        if arrived && arrivals >= policy.max_arrivals {
            return Verdict::GivenUp(Problem::AttemptsExhausted);
        }
        let delay = policy.backoff.delay(u32::try_from(attempts).unwrap_or(1), draw);
        let after = asked.map_or(delay, |asked| asked.max(delay).min(policy.backoff.most));
        Verdict::Retry { after, problem, arrived }
    };
    match attempt {
        Attempt::Answered { status: 200..=299, outcome: None, .. } => {
            Verdict::GivenUp(Problem::InvalidAnswer)
        }
        Attempt::Answered { status: 408 | 425 | 429 | 502..=504 | 520..=524, outcome: _, retry_after } => {
            retry(Problem::Busy, true, retry_after)
        }
        Attempt::Answered { outcome: Some(outcome), .. } => Verdict::Delivered(outcome),
        Attempt::Answered { outcome: None, .. } => Verdict::GivenUp(Problem::Rejected),
        Attempt::NotSent => retry(Problem::Unreachable, false, None),
        Attempt::Broken => retry(Problem::ConnectionLost, true, None),
        Attempt::TimedOut => Verdict::GivenUp(Problem::NoAnswer),
        Attempt::TooLong => Verdict::GivenUp(Problem::InvalidAnswer),
        Attempt::UrlRefused => Verdict::GivenUp(Problem::UrlRefused),
        Attempt::NotTranslatable => Verdict::GivenUp(Problem::NotTranslatable),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            max_arrivals: 3,
            backoff: Backoff::new(Duration::from_secs(2), Duration::from_secs(60)),
        }
    }

    fn answered(status: u16, outcome: bool) -> Attempt {
        let outcome = outcome.then(|| Outcome::Result(json!({})));
        Attempt::Answered { status, outcome, retry_after: None }
    }

    #[test]
    fn every_http_status_has_a_verdict() {
        for (status, with_outcome, without) in [
            (200, "delivered", "INVALID_ANSWER"),
            (202, "delivered", "INVALID_ANSWER"),
            (301, "delivered", "REJECTED"),
            (400, "delivered", "REJECTED"),
            (401, "delivered", "REJECTED"),
            (404, "delivered", "REJECTED"),
            (408, "again", "again"),
            (425, "again", "again"),
            (429, "again", "again"),
            (500, "delivered", "REJECTED"),
            (501, "delivered", "REJECTED"),
            (502, "again", "again"),
            (503, "again", "again"),
            (504, "again", "again"),
            (505, "delivered", "REJECTED"),
            (520, "again", "again"),
            (524, "again", "again"),
            (525, "delivered", "REJECTED"),
        ] {
            for (outcome, want) in [(true, with_outcome), (false, without)] {
                let got = match decide(answered(status, outcome), 1, 1, &policy(), 0.0) {
                    Verdict::Delivered(_) => "delivered",
                    Verdict::Retry { arrived, .. } => {
                        assert!(arrived);
                        "again"
                    }
                    Verdict::GivenUp(problem) => problem.code(),
                };
                assert_eq!(got, want, "{status} {outcome}");
            }
        }
    }

    #[test]
    fn a_message_that_may_have_arrived_is_sent_a_few_times_only() {
        let give_up = Verdict::GivenUp(Problem::AttemptsExhausted);
        assert!(matches!(
            decide(Attempt::Broken, 2, 2, &policy(), 1.0),
            Verdict::Retry { arrived: true, .. }
        ));
        assert_eq!(decide(Attempt::Broken, 3, 3, &policy(), 1.0), give_up);
        assert_eq!(decide(answered(503, false), 3, 3, &policy(), 1.0), give_up);
        let Verdict::Retry { after, arrived, .. } = decide(Attempt::NotSent, 40, 3, &policy(), 1.0) else {
            panic!("a message that was not sent is retried until it expires")
        };
        assert_eq!((after, arrived), (Duration::from_secs(60), false));
        assert_eq!(decide(Attempt::TimedOut, 1, 1, &policy(), 1.0), Verdict::GivenUp(Problem::NoAnswer));
    }

    #[test]
    fn retry_after_counts_within_the_longest_delay() {
        for (asked, want) in [(1, 2), (10, 10), (600, 60)] {
            let attempt = Attempt::Answered {
                status: 503,
                outcome: None,
                retry_after: Some(Duration::from_secs(asked)),
            };
            let Verdict::Retry { after, .. } = decide(attempt, 1, 1, &policy(), 1.0) else { panic!() };
            assert_eq!(after, Duration::from_secs(want));
        }
    }
}
