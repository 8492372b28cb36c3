//! Agents: their records, what tenants and agents report about them, and how a record changes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use svc_core::{
    error::Invalid,
    id::{AccountId, AgentId},
};

use super::status::{Health, Input, Refused, Status, next_status};

/// Maximum bytes of an agent card, as JSON.
const MAX_CARD: usize = 64 * 1024;

/// Maximum tasks that an agent may run at once.
const MAX_TASKS: i32 = 1000;

/// Maximum characters of a text in a beat; a longer text is cut.
const MAX_TEXT: usize = 1000;

/// How messages reach an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryMode {
    /// The relay calls the agent.
    Push,
    /// The agent fetches its messages.
    Poll,
}

/// Limits of an account's agents.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentLimits {
    /// Maximum agents of one account.
    pub max_per_account: u32,
    /// Time after which an unused enrolment expires.
    #[serde(with = "humantime_serde")]
    pub enrolment_ttl: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    pub id: AgentId,
    pub account_id: AccountId,
    pub name: String,
    /// Purpose of the agent, in the words of its tenant.
    pub role: String,
    pub status: Status,
    pub status_changed_at: DateTime<Utc>,
    /// Version of the record. Every change except a flush of vitals increases it.
    pub generation: i64,
    /// Number of the agent's incarnation. A registration, silence, pause, resume or removal begins a new one.
    /// A beat of an earlier incarnation changes nothing.
    pub incarnation: i64,
    pub delivery_mode: DeliveryMode,
    pub url: Option<String>,
    /// The agent's A2A card.
    pub card: Option<Value>,
    pub max_concurrent_tasks: i32,
    /// The vitals of its latest beat.
    pub vitals: Vitals,
    pub last_heartbeat_at: Option<DateTime<Utc>>,
    /// The time of its latest registration.
    pub registered_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// The vitals in a beat.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Vitals {
    pub active_tasks: i32,
    /// Share of the agent's requests that failed since its last beat, 0 to 1.
    pub error_rate: f64,
    /// The agent reports that it cannot make progress.
    pub wedged: bool,
    pub judges_itself: bool,
    pub sample_error: String,
    pub current_task: String,
}

impl Vitals {
    /// Returns the vitals with every value corrected to be within bounds. A beat is never refused for a
    /// value, because a refused beat would take a living agent offline.
    pub fn within_bounds(self) -> Self {
        let rate = if self.error_rate.is_finite() { self.error_rate.clamp(0.0, 1.0) } else { 0.0 };
        Self {
            active_tasks: self.active_tasks.clamp(0, MAX_TASKS),
            error_rate: rate,
            sample_error: printable(&self.sample_error),
            current_task: printable(&self.current_task),
            ..self
        }
    }

    /// Returns the part of the vitals that decides the status.
    pub fn health(&self) -> Health {
        Health { wedged: self.wedged, error_rate: self.error_rate, judges_itself: self.judges_itself }
    }
}

/// Returns the first characters of a text, without control characters, which Postgres or a terminal may
/// reject.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(MAX_TEXT).collect()
}

/// A new agent, as its tenant describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAgent {
    pub name: String,
    /// Purpose of the agent, in the words of its tenant.
    pub role: String,
    pub max_concurrent_tasks: i32,
}

/// A registration, as the agent states it.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// `None` keeps the agent's mode.
    pub delivery_mode: Option<DeliveryMode>,
    /// The URL that the relay calls; not checked against the outbound policy yet.
    pub url: Option<String>,
    pub card: Option<Value>,
}

impl Registration {
    /// # Errors
    /// [`Invalid`] if the card is too long.
    pub fn parse(
        delivery_mode: Option<DeliveryMode>,
        url: &str,
        card: Option<Value>,
    ) -> Result<Self, Invalid> {
        if card.as_ref().is_some_and(|card| card.to_string().len() > MAX_CARD) {
            return Err(Invalid::new("card", "must have at most 64 KiB"));
        }
        Ok(Self { delivery_mode, url: (!url.is_empty()).then(|| url.to_owned()), card })
    }

    /// Returns every URL in the registration with its field: the agent's URL, and those in its card.
    pub fn urls(&self) -> Vec<(String, String)> {
        let mut urls: Vec<_> = self.url.iter().map(|url| ("url".to_owned(), url.clone())).collect();
        let Some(card) = &self.card else { return urls };
        let mut push = |field: String, value: Option<&Value>| {
            if let Some(url) = value.and_then(Value::as_str) {
                urls.push((field, url.to_owned()));
            }
        };
        push("card.url".to_owned(), card.get("url"));
        for list in ["additionalInterfaces", "supportedInterfaces"] {
            for (at, interface) in card.get(list).and_then(Value::as_array).into_iter().flatten().enumerate()
            {
                push(format!("card.{list}[{at}].url"), interface.get("url"));
            }
        }
        urls
    }
}

impl Agent {
    pub fn new(id: AgentId, account_id: AccountId, new: NewAgent, now: DateTime<Utc>) -> Self {
        Self {
            id,
            account_id,
            name: new.name,
            role: new.role,
            status: Status::AwaitingAgent,
            status_changed_at: now,
            generation: 1,
            incarnation: 1,
            delivery_mode: DeliveryMode::Push,
            url: None,
            card: None,
            max_concurrent_tasks: new.max_concurrent_tasks,
            vitals: Vitals::default(),
            last_heartbeat_at: None,
            registered_at: None,
            created_at: now,
        }
    }

    /// Returns the record after `input`, with the next generation. The caller stores it only if the stored
    /// generation is still this record's.
    ///
    /// # Errors
    /// [`Refused`] as [`next_status`] says.
    pub fn after(&self, input: Input, now: DateTime<Utc>) -> Result<Self, Refused> {
        let status = next_status(self.status, input)?;
        let mut next = self.clone();
        next.generation += 1;
        if input.begins_incarnation() {
            next.incarnation += 1;
        }
        if status != self.status {
            next.status = status;
            next.status_changed_at = now;
        }
        Ok(next)
    }

    /// Returns the agent's record after a registration of its process.
    ///
    /// # Errors
    /// [`NotRegistered`] if the agent is paused or removed, or if a push agent has no URL.
    pub fn registered(&self, registration: Registration, now: DateTime<Utc>) -> Result<Self, NotRegistered> {
        let mut next = self.after(Input::Register, now)?;
        next.delivery_mode = registration.delivery_mode.unwrap_or(self.delivery_mode);
        next.url = match next.delivery_mode {
            DeliveryMode::Push => {
                let url = registration.url.or_else(|| self.url.clone());
                Some(url.ok_or(NotRegistered::NoUrl)?)
            }
            DeliveryMode::Poll => None,
        };
        next.card = registration.card;
        next.registered_at = Some(now);
        next.last_heartbeat_at = Some(now);
        next.vitals = Vitals { judges_itself: self.vitals.judges_itself, ..Vitals::default() };
        Ok(next)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRegistered {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("push delivery needs a URL")]
    NoUrl,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn agent() -> Agent {
        Agent::new(
            AgentId::new(),
            AccountId::new(),
            NewAgent { name: "a".to_owned(), role: String::new(), max_concurrent_tasks: 1 },
            now(),
        )
    }

    fn registration(url: &str) -> Registration {
        Registration::parse(None, url, None).unwrap()
    }

    #[test]
    fn a_push_agent_keeps_its_url_until_it_polls() {
        let agent = agent();
        assert_eq!(agent.registered(registration(""), now()).unwrap_err(), NotRegistered::NoUrl);
        let first = agent.registered(registration("https://a.example/a2a"), now()).unwrap();
        assert_eq!((first.status, first.generation, first.incarnation), (Status::Online, 2, 2));
        let again = first.registered(registration(""), now()).unwrap();
        assert_eq!((again.url.as_deref(), again.incarnation), (Some("https://a.example/a2a"), 3));
        let poll =
            Registration { delivery_mode: Some(DeliveryMode::Poll), ..registration("https://x.example") };
        assert_eq!(again.registered(poll, now()).unwrap().url, None);
    }

    #[test]
    fn only_a_change_of_status_sets_status_changed_at() {
        let later = now() + std::time::Duration::from_secs(5);
        let online = agent().registered(registration("https://a.example"), now()).unwrap();
        let again = online.after(Input::Register, later).unwrap();
        assert_eq!((again.status_changed_at, again.generation), (now(), online.generation + 1));
        let offline = online.after(Input::Silence, later).unwrap();
        assert_eq!((offline.status, offline.status_changed_at), (Status::Offline, later));
        assert_eq!(offline.incarnation, online.incarnation + 1);
    }

    #[test]
    fn vitals_out_of_bounds_are_corrected() {
        let vitals = Vitals {
            active_tasks: -5,
            error_rate: f64::NAN,
            sample_error: format!("{}\0\u{1b}[31m", "ä".repeat(2000)),
            ..Vitals::default()
        };
        let vitals = vitals.within_bounds();
        assert_eq!((vitals.active_tasks, vitals.error_rate), (0, 0.0));
        assert_eq!(vitals.sample_error, "ä".repeat(1000));
        assert_eq!(Vitals { error_rate: 7.0, ..Vitals::default() }.within_bounds().error_rate, 1.0);
    }

    #[test]
    fn every_url_of_a_card_is_found() {
        let card = json!({
            "url": "https://a.example",
            "additionalInterfaces": [{"transport": "GRPC"}, {"url": "https://b.example"}],
            "supportedInterfaces": [{"url": "https://c.example"}, 7],
        });
        let urls = Registration::parse(None, "https://d.example", Some(card)).unwrap().urls();
        let fields: Vec<_> = urls.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            ["url", "card.url", "card.additionalInterfaces[1].url", "card.supportedInterfaces[0].url"]
        );
        let long = json!({"x": "y".repeat(70_000)});
        assert!(Registration::parse(None, "", Some(long)).is_err());
    }
}
