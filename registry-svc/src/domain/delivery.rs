//! A message's way through the relay: its states, and what an attempt to deliver it means.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use svc_core::{
    id::{AccountId, AgentId},
    run::backoff::Backoff,
};
use uuid::Uuid;

use super::a2a::{MessageIds, Outcome, Version};

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Stored, waiting for its agent or its turn.
    Queued,
    /// On its way.
    Dispatched,
    /// Final: the agent answered.
    Delivered,
    /// Final: it was given up.
    Failed,
    /// Final: it was not dispatched in time.
    Expired,
    /// Final: it was canceled, or its agent removed.
    Dropped,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Dispatched, Self::Delivered, Self::Failed, Self::Expired, Self::Dropped];

    /// Whether nothing changes any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Dispatched => false,
            Self::Delivered | Self::Failed | Self::Expired | Self::Dropped => true,
        }
    }

    /// Its word, as callers read it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
        }
    }
}

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// It is sent to its agent. Also again, by whoever takes over from a process that died meanwhile.
    Dispatch,
    /// The agent answered.
    Answer,
    /// It did not get through, and is tried again later.
    PutBack,
    /// It is given up.
    GiveUp,
    /// Its time is over.
    Expire,
    /// Its sender cancels it, before it was sent.
    Cancel,
    /// Its agent is removed.
    Remove,
}

/// An input has no meaning for a message in that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{input:?} has no meaning for a message that is {}", .state.word())]
pub struct Refused {
    /// Where the message stands.
    pub state: State,
    /// What was to happen.
    pub input: Input,
}

/// The state of a message after `input`.
///
/// # Errors
/// [`Refused`] if that has no meaning there.
pub fn next_state(state: State, input: Input) -> Result<State, Refused> {
    use State::{Delivered, Dispatched, Dropped, Expired, Failed, Queued};
    match (state, input) {
        (Queued | Dispatched, Input::Dispatch) => Ok(Dispatched),
        (Dispatched, Input::Answer) => Ok(Delivered),
        (Dispatched, Input::PutBack) => Ok(Queued),
        (Queued | Dispatched, Input::GiveUp) => Ok(Failed),
        // What is on its way may arrive: it does not expire.
        (Queued, Input::Expire) => Ok(Expired),
        (Queued, Input::Cancel) => Ok(Dropped),
        (Queued | Dispatched, Input::Remove) => Ok(Dropped),
        (Queued, Input::Answer | Input::PutBack)
        | (Dispatched, Input::Expire | Input::Cancel)
        | (Delivered | Failed | Expired | Dropped, _) => Err(Refused { state, input }),
    }
}

/// Why a message ended without an answer, or was put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// No connection came about.
    Unreachable,
    /// The agent asks to come back later.
    Busy,
    /// The connection broke before there was an answer.
    ConnectionLost,
    /// The agent has not answered for as long as it may take.
    NoAnswer,
    /// The agent refused it without an answer of the protocol.
    Rejected,
    /// The agent's answer makes no sense.
    InvalidAnswer,
    /// The agent's URL leads where it must not.
    UrlRefused,
    /// The message cannot be said in the agent's version.
    NotTranslatable,
    /// It was sent as often as it may be.
    AttemptsExhausted,
    /// Its time is over.
    Expired,
    /// Its sender canceled it.
    Canceled,
    /// Its agent was removed.
    AgentRemoved,
}

impl Problem {
    /// Stable machine-readable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
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

/// How an attempt went.
#[derive(Debug, Clone, PartialEq)]
pub enum Attempt {
    /// The agent answered with an HTTP status and this, if it is of the protocol.
    Answered {
        /// HTTP status.
        status: u16,
        /// What was in it.
        outcome: Option<Outcome>,
        /// When the agent asks to come back.
        retry_after: Option<Duration>,
    },
    /// Nothing was sent.
    NotSent,
    /// It was sent, or may have been, and the connection broke.
    Broken,
    /// It was sent, and its time is over.
    TimedOut,
    /// The answer is longer than is read.
    TooLong,
    /// The URL may not be called.
    Refused,
    /// The message cannot be said in the agent's version.
    NotTranslatable,
}

/// What follows from an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The agent answered: the message has ended.
    Delivered(Outcome),
    /// It is tried again.
    Again {
        /// When.
        after: Duration,
        /// Why.
        problem: Problem,
        /// Whether this attempt can have arrived.
        arrived: bool,
    },
    /// It is given up.
    GivenUp(Problem),
}

/// How often and how fast is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Attempts that can have arrived.
    pub arrivals: i32,
    /// Time between attempts.
    pub backoff: Backoff,
}

/// What follows from an attempt that was number `attempts`, and number `arrivals` of those that can have arrived;
/// `draw` in 0..1 spreads the next one.
///
/// An answer of the protocol is an answer, whatever its HTTP status. A message that was not sent is tried again
/// until it expires; one that can have arrived, a limited number of times, under the same message id. One that an
/// agent works on for too long is not sent again: it would only be worked on twice.
#[must_use]
pub fn judge(attempt: Attempt, attempts: i32, arrivals: i32, patience: &Patience, draw: f64) -> Verdict {
    let again = |problem: Problem, arrived: bool, asked: Option<Duration>| {
        if arrived && arrivals >= patience.arrivals {
            return Verdict::GivenUp(Problem::AttemptsExhausted);
        }
        let delay = patience.backoff.delay(u32::try_from(attempts).unwrap_or(1), draw);
        let after = asked.map_or(delay, |asked| asked.max(delay).min(patience.backoff.most));
        Verdict::Again { after, problem, arrived }
    };
    match attempt {
        Attempt::Answered { status: 200..=299, outcome: None, .. } => {
            Verdict::GivenUp(Problem::InvalidAnswer)
        }
        Attempt::Answered { status: 408 | 425 | 429 | 502..=504 | 520..=524, outcome: _, retry_after } => {
            again(Problem::Busy, true, retry_after)
        }
        Attempt::Answered { outcome: Some(outcome), .. } => Verdict::Delivered(outcome),
        Attempt::Answered { outcome: None, .. } => Verdict::GivenUp(Problem::Rejected),
        Attempt::NotSent => again(Problem::Unreachable, false, None),
        Attempt::Broken => again(Problem::ConnectionLost, true, None),
        Attempt::TimedOut => Verdict::GivenUp(Problem::NoAnswer),
        Attempt::TooLong => Verdict::GivenUp(Problem::InvalidAnswer),
        Attempt::Refused => Verdict::GivenUp(Problem::UrlRefused),
        Attempt::NotTranslatable => Verdict::GivenUp(Problem::NotTranslatable),
    }
}

/// A message in the relay.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its id in the relay.
    pub id: Uuid,
    /// The tenant.
    pub account_id: AccountId,
    /// The agent it is for.
    pub target_id: AgentId,
    /// Who sent it.
    pub sender_id: String,
    /// Its own ids.
    pub ids: MessageIds,
    /// Hash of what was sent.
    pub request_hash: [u8; 32],
    /// Where it stands.
    pub state: State,
    /// How often it was dispatched.
    pub attempts: i32,
    /// Why it ended without an answer, or its latest problem; may be empty.
    pub code: String,
    /// The answer, with its version.
    pub answer: Option<(Outcome, Version)>,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
    /// When it ended.
    pub settled_at: Option<DateTime<Utc>>,
}

/// A message about to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    /// Its id in the relay.
    pub id: Uuid,
    /// The tenant.
    pub account_id: AccountId,
    /// The agent it is for.
    pub target_id: AgentId,
    /// Who sends it.
    pub sender_id: String,
    /// Its own ids.
    pub ids: MessageIds,
    /// Version of `params`.
    pub version: Version,
    /// What is sent.
    pub params: Value,
    /// Hash of `params`.
    pub request_hash: [u8; 32],
    /// Trace that it comes from.
    pub traceparent: Option<String>,
    /// When it is stored.
    pub created_at: DateTime<Utc>,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
}

impl NewMessage {
    /// What keeps its order with others to the same agent.
    #[must_use]
    pub fn lane_key(&self) -> String {
        // Ids of the two kinds must not meet.
        match &self.ids.context {
            Some(context) => format!("context:{context}"),
            None => format!("message:{}:{}", self.sender_id, self.ids.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_state_and_input_has_its_answer() {
        use State::{Delivered as L, Dispatched as D, Dropped as P, Expired as E, Failed as F, Queued as Q};
        let table = [
            (Input::Dispatch, Some(D), Some(D)),
            (Input::Answer, None, Some(L)),
            (Input::PutBack, None, Some(Q)),
            (Input::GiveUp, Some(F), Some(F)),
            (Input::Expire, Some(E), None),
            (Input::Cancel, Some(P), None),
            (Input::Remove, Some(P), Some(P)),
        ];
        for (input, from_queued, from_dispatched) in table {
            assert_eq!(next_state(Q, input).ok(), from_queued, "{input:?}");
            assert_eq!(next_state(D, input).ok(), from_dispatched, "{input:?}");
            for state in State::ALL.into_iter().filter(|state| state.is_final()) {
                assert_eq!(next_state(state, input), Err(Refused { state, input }));
            }
        }
    }

    fn patience() -> Patience {
        Patience { arrivals: 3, backoff: Backoff::new(Duration::from_secs(2), Duration::from_secs(60)) }
    }

    fn answered(status: u16, outcome: bool) -> Attempt {
        let outcome = outcome.then(|| Outcome::Result(json!({})));
        Attempt::Answered { status, outcome, retry_after: None }
    }

    #[test]
    fn every_http_status_has_its_meaning() {
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
                let got = match judge(answered(status, outcome), 1, 1, &patience(), 0.0) {
                    Verdict::Delivered(_) => "delivered",
                    Verdict::Again { arrived, .. } => {
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
    fn what_can_have_arrived_is_sent_a_limited_number_of_times() {
        let give_up = Verdict::GivenUp(Problem::AttemptsExhausted);
        assert!(matches!(
            judge(Attempt::Broken, 2, 2, &patience(), 1.0),
            Verdict::Again { arrived: true, .. }
        ));
        assert_eq!(judge(Attempt::Broken, 3, 3, &patience(), 1.0), give_up);
        assert_eq!(judge(answered(503, false), 3, 3, &patience(), 1.0), give_up);
        let Verdict::Again { after, arrived, .. } = judge(Attempt::NotSent, 40, 3, &patience(), 1.0) else {
            panic!("what was not sent is sent until it expires")
        };
        assert_eq!((after, arrived), (Duration::from_secs(60), false));
        assert_eq!(judge(Attempt::TimedOut, 1, 1, &patience(), 1.0), Verdict::GivenUp(Problem::NoAnswer));
    }

    #[test]
    fn an_agent_says_when_to_come_back_within_reason() {
        for (asked, want) in [(1, 2), (10, 10), (600, 60)] {
            let attempt = Attempt::Answered {
                status: 503,
                outcome: None,
                retry_after: Some(Duration::from_secs(asked)),
            };
            let Verdict::Again { after, .. } = judge(attempt, 1, 1, &patience(), 1.0) else { panic!() };
            assert_eq!(after, Duration::from_secs(want));
        }
    }
}
