//! Kills chat-svc workers at each fail point of a turn, and at random moments: turns continue, clients miss
//! no event and see none twice, and each effect of a tool happens once.
//!
//! Each client records every byte of every event. The checks compare this with the journal and the stored
//! messages, and compare a file in the sandbox, to which the tools append, with its expected lines.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    pin::pin,
    time::{Duration, Instant},
};

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use rustix::process::Signal;
use steward::plane::Service;
use suite_tests::{
    actors::Tenant,
    cluster::Cluster,
    rounds::{chance, report, rounds},
    witness::Testimony,
};
use tokio::task::JoinSet;

/// Fail points, each between two commits of a turn.
const POINTS: [&str; 6] = [
    "chat.turn.claimed",
    "chat.tool.intended",
    "chat.tool.dispatched",
    "chat.tool.returned",
    "chat.journal.committed",
    "chat.turn.finishing",
];
/// Each fail point gets the number of rounds of the suite divided by this, and at least two.
const SHARE: usize = 16;
/// Number of random kills allowed for each kill that must interrupt a turn, because a random kill may hit a
/// worker that runs no turn.
const MISSES: usize = 4;
const REPLICAS: [&str; 2] = ["chat", "chat-2"];
/// Maximum time from the death of a worker to the next event.
const PROMISE: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(60);

/// A plane with two workers, which the test kills one at a time.
struct Range {
    cluster: Cluster,
    tenant: Tenant,
    /// Two sessions with turns that use tools, and one with turns that only produce text.
    sessions: [String; 3],
    /// Expected lines of each session's file.
    effects: BTreeMap<String, Vec<String>>,
    chance: StdRng,
    volleys: usize,
    /// Duration of a round of turns without a kill.
    usual: Duration,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    hits: BTreeMap<&'static str, usize>,
    random: usize,
    struck: usize,
    turns: usize,
    events: usize,
    streams: usize,
    longest: Duration,
}

impl Range {
    async fn open(chance: StdRng) -> Self {
        let cluster = Cluster::builder().replicas(Service::Chat, 2).start().await;
        let tenant = cluster.tenant("target").await;
        let sessions = [tenant.session().await, tenant.session().await, tenant.session().await];
        let (effects, tally) = (BTreeMap::new(), Tally::default());
        Self { cluster, tenant, sessions, effects, chance, volleys: 0, usual: Duration::ZERO, tally }
    }

    /// Runs a round of turns without a kill.
    async fn peace(&mut self) {
        let begun = Instant::now();
        let testimonies = self.volley().join_all().await;
        self.usual = begun.elapsed();
        self.hear(&testimonies, None).await;
    }

    /// Starts a round: a turn in every session, each watched by a client.
    fn volley(&mut self) -> JoinSet<Testimony> {
        self.volleys += 1;
        let mut clients = JoinSet::new();
        for (at, session) in self.sessions.clone().into_iter().enumerate() {
            let name = format!("{}.{at}", self.volleys);
            let input = if at == 2 {
                "count to 40 every 15ms".to_owned()
            } else {
                let lines = self.effects.entry(session.clone()).or_default();
                lines.extend([format!("{name}.a"), format!("{name}.b")]);
                format!("run echo {name}.a >> effects then run echo {name}.b >> effects; sleep 0.2")
            };
            let tenant = self.tenant.clone();
            clients.spawn(async move {
                let turn = tenant.begin_surely(&session, &input, &name, TIMEOUT).await;
                tenant.witness(&turn, TIMEOUT).await
            });
        }
        clients
    }

    /// Kills a worker when it passes a fail point for the first or second time, while turns run in all
    /// sessions.
    async fn die_at(&mut self, point: &'static str, victim: &str) {
        let passing = self.chance.random_range(1..=2);
        let process = self.cluster.process(victim);
        if process.is_running() {
            process.kill().await;
        }
        process.arm(&format!("{point}=kill@{passing}"));
        process.run();
        self.cluster.plane.until_ready(TIMEOUT).await.unwrap();
        let before = self.cluster.process(victim).hits(point);
        // The other worker may claim the turns, so this one may not pass the point often enough in one round.
        for _ in 0..20 {
            let mut clients = pin!(self.volley().join_all());
            let death = tokio::select! {
                status = self.cluster.process(victim).died(TIMEOUT) => {
                    status.map(|status| (status, Instant::now()))
                }
                testimonies = &mut clients => {
                    self.hear(&testimonies, None).await;
                    None
                }
            };
            let Some((status, died)) = death else { continue };
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{}", self.cluster.logs());
            self.hear(&clients.await, Some(died)).await;
            assert_eq!(self.cluster.process(victim).hits(point), before + 1, "{}", self.cluster.logs());
            *self.tally.hits.entry(point).or_default() += 1;
            return;
        }
        panic!("{victim} never passed {point} {passing} times\n{}", self.cluster.logs());
    }

    /// Kills a worker at a random moment of a round, and starts it again after a random pause.
    async fn die_sometime(&mut self) {
        let victim = *REPLICAS.choose(&mut self.chance).unwrap();
        let alive = self.chance.random_range(Duration::ZERO..self.usual);
        let dead = Duration::from_millis(self.chance.random_range(0..600));
        let clients = self.volley();
        tokio::time::sleep(alive).await;
        self.cluster.process(victim).kill().await;
        let died = Instant::now();
        tokio::time::sleep(dead).await;
        self.cluster.process(victim).run();
        let testimonies = clients.join_all().await;
        self.hear(&testimonies, Some(died)).await;
        self.cluster.plane.until_ready(TIMEOUT).await.unwrap();
        self.tally.random += 1;
        self.tally.struck += usize::from(self.was_taken_over(&testimonies).await);
    }

    /// Returns whether a turn was claimed more than once, so that another worker continued it.
    async fn was_taken_over(&self, testimonies: &[Testimony]) -> bool {
        let turns: Vec<&str> = testimonies.iter().map(|testimony| testimony.turn.as_str()).collect();
        let query = "SELECT count(*) FROM chat.turns WHERE id = ANY($1::text[]::uuid[]) AND attempts > 1";
        let mut db = self.cluster.administrator().await;
        let count: i64 = sqlx::query_scalar(query).bind(turns).fetch_one(&mut db).await.unwrap();
        count > 0
    }

    /// Checks the clients' records of a round. If a worker died at `died`, also checks the time until the
    /// next event.
    async fn hear(&mut self, testimonies: &[Testimony], died: Option<Instant>) {
        for testimony in testimonies {
            self.cluster.verify(&self.tenant, testimony).await;
            let silence = died.and_then(|died| testimony.silence_after(died)).unwrap_or_default();
            assert!(silence <= PROMISE, "turn {} was silent for {silence:?}", testimony.turn);
            self.tally.turns += 1;
            self.tally.events += testimony.sightings.len();
            self.tally.streams += testimony.streams;
            self.tally.longest = self.tally.longest.max(silence);
        }
    }

    /// Checks that each session's file has every expected line once; returns the number of lines.
    async fn count_effects(&self) -> usize {
        for (session, expected) in &self.effects {
            let seen = self.tenant.say(session, "run cat effects").await;
            let results = seen.all("tool.result");
            let output = results[0]["content"].as_str().unwrap();
            let mut lines: Vec<&str> =
                output.lines().filter(|line| expected.iter().any(|e| e == line)).collect();
            lines.sort_unstable();
            let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
            expected.sort_unstable();
            assert_eq!(lines, expected, "effects of session {session}: {output}");
        }
        self.effects.values().map(Vec::len).sum()
    }
}

#[tokio::test]
async fn a_dying_worker_loses_nothing_and_repeats_nothing() {
    let total = rounds("kills", 32);
    let at_each = (total / SHARE).max(2);
    let (chance, seed) = chance();
    let mut range = Range::open(chance).await;
    // The two sessions with tools get their sandboxes before the first kill, because other suites test the
    // creation of sandboxes. So the second round measures the usual duration.
    range.peace().await;
    range.peace().await;

    for pass in 0..at_each {
        let victim = REPLICAS[pass % REPLICAS.len()];
        for point in POINTS {
            range.die_at(point, victim).await;
        }
        // Restarts it without a fail point, as usual.
        range.cluster.process(victim).run();
        range.cluster.plane.until_ready(TIMEOUT).await.unwrap();
    }
    let wanted = total.saturating_sub(POINTS.len() * at_each).max(1);
    while range.tally.struck < wanted {
        let Tally { random, struck, .. } = range.tally;
        assert!(
            random < wanted * MISSES + SHARE,
            "{struck} of {random} random kills struck a worker with a turn"
        );
        range.die_sometime().await;
    }

    let effects = range.count_effects().await;
    let Range { tally, cluster, .. } = range;
    cluster.stop().await;
    report(
        "kills",
        format_args!(
            "{} at named points {:?}, {} at random moments (seed {seed}) of which {} struck a turn; \
             {} turns, {} events over {} streams, {effects} effects once each, longest silence {:.1?}",
            tally.hits.values().sum::<usize>(),
            tally.hits,
            tally.random,
            tally.struck,
            tally.turns,
            tally.events,
            tally.streams,
            tally.longest,
        ),
    );
}
