//! A test client that reads a turn's event stream to its end.
//!
//! For each complete event it records the bytes and the time of arrival. When a stream breaks, it reconnects
//! with the id of the last complete event. It discards an incomplete event at the end of a broken stream, as
//! every client does, but keeps its bytes and panics if the resent event does not begin with them.
//!
//! [`Cluster::verify`] compares the bytes of the complete events with the journal; if they are equal, the
//! client received every event once, in order.

use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode, header};
use serde_json::{Value, json};
use sqlx::{PgConnection, Row};
use steward::api::sse::Frame;

use crate::{
    actors::{Seen, Tenant},
    cluster::Cluster,
};

const CONNECT: Duration = Duration::from_secs(5);
/// Maximum time in which a stream may send nothing: the gateway sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(20);
/// Pause before a reconnect.
const PAUSE: Duration = Duration::from_millis(50);

/// One whole event, as its bytes arrived.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// Time at which the event was complete.
    pub at: Instant,
    pub bytes: Vec<u8>,
    pub frame: Frame,
}

/// The record of a client that watched one turn.
#[derive(Debug, Clone, Default)]
pub struct Testimony {
    pub turn: String,
    /// The turn's events, in order of arrival.
    pub sightings: Vec<Sighting>,
    pub streams: usize,
}

#[derive(Debug)]
struct Witness<'a> {
    http: Client,
    tenant: &'a Tenant,
    testimony: Testimony,
    joint: Joint,
}

/// Joins the bytes of streams that follow each other.
#[derive(Debug, Default)]
struct Joint {
    /// Bytes of an event that is not complete yet.
    open: Vec<u8>,
    /// The longest incomplete copy of the next event that a broken stream has sent so far.
    shown: Vec<u8>,
}

impl Tenant {
    /// Watches a turn to its end; its streams may be cut any number of times.
    ///
    /// # Panics
    /// If the turn is refused permanently or has not ended `within` that time.
    pub async fn witness(&self, turn: &str, within: Duration) -> Testimony {
        let http = Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE).build().unwrap();
        let testimony = Testimony { turn: turn.to_owned(), ..Testimony::default() };
        let mut witness = Witness { http, tenant: self, testimony, joint: Joint::default() };
        if tokio::time::timeout(within, witness.watch()).await.is_err() {
            panic!("turn {turn} has not ended within {within:?}; seen: {:?}", witness.testimony.kinds());
        }
        witness.testimony
    }

    /// Starts a turn with `input` and returns its id. Retries with the same idempotency key if the answer is
    /// lost or is 409, 429, 503 or 504.
    ///
    /// # Panics
    /// If the input is refused permanently or not accepted `within` that time.
    pub async fn begin_surely(&self, session: &str, input: &str, key: &str, within: Duration) -> String {
        let http = Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE).build().unwrap();
        let url = format!("{}/v1/sessions/{session}/turns", self.api.url());
        let started = Instant::now();
        loop {
            let request = http.post(&url).bearer_auth(&self.token).header("idempotency-key", key);
            if let Ok(answer) = request.json(&json!({ "input": input })).send().await {
                let status = answer.status();
                if status.is_success()
                    && let Ok(body) = answer.json::<Value>().await
                {
                    return body["turn"]["turnId"].as_str().unwrap().to_owned();
                }
                assert!(may_pass(status) || status.is_success(), "{status} for {input}");
            }
            assert!(started.elapsed() < within, "{input} was not accepted within {within:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Returns whether a refused call may be retried.
fn may_pass(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::GATEWAY_TIMEOUT
    ) || status == StatusCode::CONFLICT
}

impl Witness<'_> {
    async fn watch(&mut self) {
        while !self.testimony.is_over() {
            if let Some(mut stream) = self.connect().await {
                self.testimony.streams += 1;
                while let Ok(Some(bytes)) = stream.chunk().await {
                    self.testimony.sightings.extend(self.joint.take(&bytes));
                }
                self.joint.cut();
            }
            if !self.testimony.is_over() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn connect(&self) -> Option<Response> {
        let url = format!("{}/v1/turns/{}/events", self.tenant.api.url(), self.testimony.turn);
        let mut request =
            self.http.get(url).bearer_auth(&self.tenant.token).header(header::ACCEPT, "text/event-stream");
        if let Some(last) = self.testimony.sightings.last() {
            request = request.header("last-event-id", &last.frame.id);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status();
        assert!(status.is_success() || may_pass(status), "{status} for turn {}", self.testimony.turn);
        status.is_success().then_some(answer)
    }
}

impl Joint {
    /// Returns the events that are complete with these bytes.
    fn take(&mut self, bytes: &[u8]) -> Vec<Sighting> {
        self.open.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while let Some(end) = self.open.windows(2).position(|pair| pair == b"\n\n") {
            let bytes: Vec<u8> = self.open.drain(..end + 2).collect();
            let frame = parse(&bytes);
            // Comments and problems have no id: they are no events of the turn.
            if !frame.id.is_empty() {
                assert_continues(&std::mem::take(&mut self.shown), &bytes);
                whole.push(Sighting { at: Instant::now(), bytes, frame });
            }
        }
        whole
    }

    /// Discards the part of an event that an ended stream left.
    fn cut(&mut self) {
        let half = std::mem::take(&mut self.open);
        let begins = |frame: &[u8]| half.starts_with(frame) || frame.starts_with(&half);
        if begins(b":") || begins(b"event: problem\n") {
            return;
        }
        assert!(begins(b"id: "), "neither an event nor a comment: {}", String::from_utf8_lossy(&half));
        if half.len() > self.shown.len() {
            assert_continues(&std::mem::replace(&mut self.shown, half.clone()), &half);
        } else {
            assert_continues(&half, &self.shown);
        }
    }
}

/// Panics unless `bytes` begin with the bytes that were shown before.
fn assert_continues(shown: &[u8], bytes: &[u8]) {
    let (begun, replacement) = (String::from_utf8_lossy(shown), String::from_utf8_lossy(bytes));
    assert!(bytes.starts_with(shown), "a client was shown {begun:?}, and then {replacement:?} in its place");
}

/// Reads the lines of one event.
fn parse(bytes: &[u8]) -> Frame {
    let mut frame = Frame::default();
    for line in std::str::from_utf8(bytes).unwrap().lines() {
        match line.split_once(": ") {
            Some(("id", value)) => value.clone_into(&mut frame.id),
            Some(("event", value)) => value.clone_into(&mut frame.event),
            Some(("data", value)) => value.clone_into(&mut frame.data),
            _ => {}
        }
    }
    frame
}

impl Testimony {
    /// Returns whether the last event received is the turn's last.
    pub fn is_over(&self) -> bool {
        let last = self.sightings.last().map(|sighting| sighting.frame.event.as_str());
        matches!(last, Some("turn.completed" | "turn.failed" | "turn.canceled"))
    }

    /// Returns the events, as [`Tenant::watch`] returns them.
    pub fn seen(&self) -> Seen {
        Seen { frames: self.sightings.iter().map(|sighting| sighting.frame.clone()).collect() }
    }

    /// Returns the kinds of the events, without adjacent repeats.
    pub fn kinds(&self) -> Vec<String> {
        self.seen().kinds().into_iter().map(str::to_owned).collect()
    }

    /// Returns the time from `moment` to the next event; `None` if no event arrived after `moment`.
    pub fn silence_after(&self, moment: Instant) -> Option<Duration> {
        let next = self.sightings.iter().find(|sighting| sighting.at > moment)?;
        Some(next.at - moment)
    }

    fn bytes(&self) -> Vec<u8> {
        self.sightings.iter().flat_map(|sighting| sighting.bytes.iter().copied()).collect()
    }
}

impl Cluster {
    /// Returns a connection that may read every schema.
    pub async fn administrator(&self) -> PgConnection {
        <PgConnection as sqlx::Connection>::connect(&self.database.admin_url().unwrap()).await.unwrap()
    }

    /// Checks a client's record against the journal and the stored messages.
    ///
    /// # Panics
    /// If a byte differs, an event is missing or double, the turn did not complete, or the visible answer
    /// differs from the stored one.
    pub async fn verify(&self, tenant: &Tenant, testimony: &Testimony) {
        let turn = &testimony.turn;
        let mut journal = Vec::new();
        let mut places = Vec::new();
        let id = sqlx::types::Uuid::parse_str(turn).unwrap();
        let rows =
            sqlx::query("SELECT seq, kind, payload FROM chat.turn_events WHERE turn_id = $1 ORDER BY seq")
                .bind(id)
                .fetch_all(&mut self.administrator().await)
                .await
                .unwrap();
        for row in rows {
            let (seq, kind, payload): (i64, String, Vec<u8>) = (row.get(0), row.get(1), row.get(2));
            journal.extend(format!("id: {turn}:{seq}\nevent: {kind}\ndata: ").bytes());
            journal.extend(payload);
            journal.extend(b"\n\n");
            places.push(seq);
        }
        let seen = testimony.seen();
        let whole: Vec<i64> = (1..=i64::try_from(places.len()).unwrap()).collect();
        assert_eq!(places, whole, "turn {turn}: the journal has a gap");
        assert_eq!(
            String::from_utf8(testimony.bytes()).unwrap(),
            String::from_utf8(journal).unwrap(),
            "turn {turn}: what was seen is not what is stored"
        );
        assert_eq!(seen.kinds().last(), Some(&"turn.completed"), "turn {turn}: {:?}", seen.frames.last());
        assert_eq!(seen.all("turn.started").len(), 1, "turn {turn} started more than once");
        self.verify_message(tenant, &seen, turn).await;
    }

    /// Checks that the stored messages of a turn equal the visible answer.
    async fn verify_message(&self, tenant: &Tenant, seen: &Seen, turn: &str) {
        let record = tenant.turn(turn).await;
        assert_eq!(record["status"], "TURN_STATUS_COMPLETED");
        let rows = sqlx::query_scalar::<_, Value>(
            "SELECT parts FROM chat.messages WHERE turn_id = $1 AND role = 'assistant' ORDER BY step",
        );
        let messages = rows
            .bind(sqlx::types::Uuid::parse_str(turn).unwrap())
            .fetch_all(&mut self.administrator().await)
            .await
            .unwrap();
        let texts = messages.iter().flat_map(|parts| parts.as_array().into_iter().flatten());
        let stored: String =
            texts.filter(|part| part["type"] == "text").filter_map(|part| part["text"].as_str()).collect();
        assert_eq!(seen.text(), stored, "turn {turn}: the stored answer is not what was shown");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = "id: t:1\nevent: text.delta\ndata: {\"text\":\"one\"}\n\n";

    /// Feeds each text to a [`Joint`] as one stream that breaks at its end, and returns the number of
    /// complete events.
    fn streams(streams: &[&str]) -> usize {
        let mut joint = Joint::default();
        let mut events = 0;
        for stream in streams {
            events += joint.take(stream.as_bytes()).len();
            joint.cut();
        }
        events
    }

    #[test]
    fn an_event_may_be_cut_anywhere_and_come_again() {
        for cut in 0..EVENT.len() {
            for again in 0..EVENT.len() {
                assert_eq!(streams(&[&EVENT[..cut], &EVENT[..again], EVENT]), 1);
            }
        }
    }

    #[test]
    fn what_is_about_the_stream_may_be_cut_and_followed_by_anything() {
        let problem = "event: problem\ndata: {}\n\n";
        for cut in 0..problem.len() {
            assert_eq!(streams(&[&problem[..cut], ": alive\n", EVENT, ":", problem]), 1);
        }
        assert_eq!(streams(&[&EVENT[..20], ": alive\n\n", problem, EVENT]), 1);
    }

    #[test]
    #[should_panic(expected = "in its place")]
    fn half_an_event_that_another_replaces_is_noticed() {
        streams(&[&EVENT[..42], ": alive\n\n", &EVENT.replace("one", "two")]);
    }

    #[test]
    #[should_panic(expected = "in its place")]
    fn half_an_event_that_another_half_replaces_is_noticed() {
        streams(&[&EVENT[..40], "id: t:2\n"]);
    }
}
