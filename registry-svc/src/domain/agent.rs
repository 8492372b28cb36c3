//! Agents: what a tenant says about one, what it says about itself, and how its record changes.

use chrono::{DateTime, Utc};
use serde_json::Value;
use svc_core::{
    id::{AccountId, AgentId},
    wire::error::Invalid,
};

use super::{
    name::Name,
    status::{Health, Input, Refused, Status, next_status},
};

/// Longest role, characters.
const MAX_ROLE: usize = 1000;

/// Longest agent card, bytes of JSON.
const MAX_CARD: usize = 64 * 1024;

/// Most tasks that an agent may claim to do at once.
const MAX_TASKS: i32 = 1000;

/// Longest text that a beat may carry, characters; what is longer is cut.
const MAX_TEXT: usize = 1000;

/// How messages reach an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryMode {
    /// The plane calls it.
    Push,
    /// It asks.
    Poll,
}

/// An agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its tenant.
    pub account_id: AccountId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: String,
    /// Where it stands.
    pub status: Status,
    /// When that changed last.
    pub status_changed_at: DateTime<Utc>,
    /// Version of the record; every change of status makes a new one.
    pub generation: i64,
    /// What was heard of it in an earlier incarnation says nothing about this one.
    pub incarnation: i64,
    /// How messages reach it.
    pub delivery_mode: DeliveryMode,
    /// Where it is called.
    pub url: Option<String>,
    /// Its A2A card.
    pub card: Option<Value>,
    /// How much it does at once.
    pub max_concurrent_tasks: i32,
    /// What its latest beat said.
    pub vitals: Vitals,
    /// When it was last heard of.
    pub last_heartbeat_at: Option<DateTime<Utc>>,
    /// When it registered last.
    pub registered_at: Option<DateTime<Utc>>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// What a beat says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Vitals {
    /// What it does now.
    pub active_tasks: i32,
    /// Share of its requests that failed since the beat before, 0 to 1.
    pub error_rate: f64,
    /// It says that it cannot go on.
    pub wedged: bool,
    /// It judges its own health.
    pub judges_itself: bool,
    /// A sample of its errors.
    pub sample_error: String,
    /// What it works on.
    pub current_task: String,
}

impl Vitals {
    /// What a beat claimed, brought within bounds: nonsense is corrected, not refused, because a beat that is not
    /// taken makes a living agent look dead.
    #[must_use]
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

    /// What counts for the status.
    #[must_use]
    pub fn health(&self) -> Health {
        Health { wedged: self.wedged, error_rate: self.error_rate, judges_itself: self.judges_itself }
    }
}

/// The first characters of a text, without those that Postgres or a terminal would choke on.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(MAX_TEXT).collect()
}

/// What a tenant says about a new agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAgent {
    /// Its name.
    pub name: Name,
    /// What it is for.
    pub role: String,
    /// How much it does at once.
    pub max_concurrent_tasks: i32,
}

impl NewAgent {
    /// Parses what a tenant said.
    ///
    /// # Errors
    /// [`Invalid`] names the field.
    pub fn parse(name: &str, role: &str, max_concurrent_tasks: i32) -> Result<Self, Invalid> {
        if role.chars().count() > MAX_ROLE {
            return Err(Invalid::new("role", "must have at most 1000 characters"));
        }
        if role.chars().any(|c| c.is_control() && c != '\n') {
            return Err(Invalid::new("role", "must not contain control characters"));
        }
        let max_concurrent_tasks = match max_concurrent_tasks {
            0 => 1,
            tasks @ 1..=MAX_TASKS => tasks,
            _ => return Err(Invalid::new("max_concurrent_tasks", "must be between 1 and 1000")),
        };
        Ok(Self { name: Name::parse("name", name)?, role: role.to_owned(), max_concurrent_tasks })
    }
}

/// What an agent says about itself when it registers.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// How it wants its messages; as before if not said.
    pub delivery_mode: Option<DeliveryMode>,
    /// Where it is called; the URL is vetted elsewhere.
    pub url: Option<String>,
    /// Its card.
    pub card: Option<Value>,
}

impl Registration {
    /// Puts together what an agent said.
    ///
    /// # Errors
    /// [`Invalid`] names the field.
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

    /// Every URL it names, with the field it is in: where it is called, and the interfaces of its card.
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
    /// A new agent, awaited from `now` on.
    #[must_use]
    pub fn new(id: AgentId, account_id: AccountId, new: NewAgent, now: DateTime<Utc>) -> Self {
        Self {
            id,
            account_id,
            name: new.name.as_str().to_owned(),
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

    /// The record after `input`; whoever stores it expects the generation before.
    ///
    /// # Errors
    /// [`Refused`] if the input has no meaning where the agent stands.
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

    /// The record after its process registered.
    ///
    /// # Errors
    /// [`NotRegistered`] if it may not register, or does not say where it is called.
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

/// Why an agent is not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRegistered {
    /// It may not.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It wants to be called and does not say where.
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
        Agent::new(AgentId::new(), AccountId::new(), NewAgent::parse("a", "", 0).unwrap(), now())
    }

    fn registration(url: &str) -> Registration {
        Registration::parse(None, url, None).unwrap()
    }

    #[test]
    fn what_a_tenant_says_is_bounded() {
        assert_eq!(NewAgent::parse("a", "role\nof two lines", 0).unwrap().max_concurrent_tasks, 1);
        for (name, role, tasks, field) in [
            ("", "", 1, "name"),
            ("a", "x\u{7}", 1, "role"),
            ("a", "", -1, "max_concurrent_tasks"),
            ("a", "", 1001, "max_concurrent_tasks"),
        ] {
            assert_eq!(NewAgent::parse(name, role, tasks).unwrap_err().field, field);
        }
        assert!(NewAgent::parse("a", &"x".repeat(1001), 1).is_err());
    }

    #[test]
    fn an_agent_that_is_called_says_where_once() {
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
    fn a_change_moves_the_clock_of_the_status_only_if_the_status_changes() {
        let later = now() + std::time::Duration::from_secs(5);
        let online = agent().registered(registration("https://a.example"), now()).unwrap();
        let again = online.after(Input::Register, later).unwrap();
        assert_eq!((again.status_changed_at, again.generation), (now(), online.generation + 1));
        let offline = online.after(Input::Silence, later).unwrap();
        assert_eq!((offline.status, offline.status_changed_at), (Status::Offline, later));
        assert_eq!(offline.incarnation, online.incarnation + 1);
    }

    #[test]
    fn a_beat_that_claims_nonsense_is_corrected() {
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
