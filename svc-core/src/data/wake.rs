//! Wake-ups: hints between replicas that something is worth reading, over Redis pub/sub.
//!
//! A hint may be lost, doubled or late, and without Redis there are none. So a reader
//!
//! 1. subscribes ([`Wake::subscribe`] returns when Redis has confirmed it, or is known to be unreachable),
//! 2. reads Postgres from its cursor to the head,
//! 3. waits with [`Subscription::next`], which returns [`Hint::Look`] at least once every `poll` (a second,
//!    while the reader is unfinished) and whenever hints may have been lost, and continues with 2.
//!
//! One connection a process carries every subscription. It is watched with pings and replaced when it fails;
//! the topics are then subscribed again, and every reader receives [`Hint::Look`].

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{data::redis::Redis, run::lifecycle::Lifecycle};

/// Maximum pending hints of a slow reader; beyond it the reader receives [`Hint::Look`] instead.
const BACKLOG: usize = 256;

/// Maximum subscriptions in one round trip.
const BATCH: usize = 256;

/// Period of the pings: a peer that vanished sends nothing by itself.
const PING_PERIOD: Duration = Duration::from_secs(2);

/// Delay before the next connection.
const RECONNECT: Duration = Duration::from_millis(500);

/// A hint to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    Message(Bytes),
    /// Read Postgres again: hints may have been lost, or `poll` is over.
    Look,
}

/// Publishes and subscribes to topics; cheap to clone.
#[derive(Debug, Clone)]
pub struct Wake {
    redis: Redis,
    hub: Arc<Hub>,
}

#[derive(Debug)]
struct Hub {
    topics: Mutex<HashMap<String, broadcast::Sender<Hint>>>,
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    /// Subscribe, and report when the subscription is made or impossible.
    Open(String, oneshot::Sender<()>),
    /// Unsubscribe, unless a reader came back meanwhile.
    Close(String),
}

impl Wake {
    /// Starts the hub of this process.
    pub fn start(redis: &Redis, lifecycle: &Lifecycle) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let hub = Arc::new(Hub { topics: Mutex::default(), orders });
        let soft = lifecycle.soft();
        let run = run(redis.clone(), hub.clone(), inbox);
        drop(lifecycle.spawn("wake hub", async move {
            tokio::select! {
                () = soft.cancelled() => {}
                () = run => {}
            }
        }));
        Self { redis: redis.clone(), hub }
    }

    /// Sends a hint to the subscribers of `topic`, if Redis is there. It never fails: readers that depend on
    /// the fact also poll.
    pub async fn publish(&self, topic: &str, payload: &[u8]) {
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.channel(topic)).arg(payload);
        if let Err(error) = self.redis.query::<()>(&command).await {
            tracing::debug!(error = %crate::error::Chain(&error), topic, "wake-up not sent");
        }
    }

    /// Sends a hint to the subscribers of several topics in one round trip. Returns the number of receivers
    /// that Redis counts among its own connections: 0 if Redis is down.
    pub async fn publish_all<'a>(&self, messages: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> u64 {
        let mut pipeline = redis::pipe();
        for (topic, payload) in messages {
            pipeline.cmd("PUBLISH").arg(self.channel(topic)).arg(payload);
        }
        if pipeline.is_empty() {
            return 0;
        }
        match self.redis.pipeline::<Vec<u64>>(&pipeline).await {
            Ok(heard) => heard.into_iter().sum(),
            Err(error) => {
                let count = pipeline.len();
                tracing::debug!(error = %crate::error::Chain(&error), count, "wake-ups not sent");
                0
            }
        }
    }

    /// Subscribes to `topic`. A hint published after this returns arrives, if Redis is there and stays.
    pub async fn subscribe(&self, topic: &str) -> Subscription {
        let channel = self.channel(topic);
        let receiver = {
            let mut topics = self.hub.topics();
            topics.entry(channel.clone()).or_insert_with(|| broadcast::channel(BACKLOG).0).subscribe()
        };
        let (done, confirmed) = oneshot::channel();
        if self.hub.orders.send(Order::Open(channel.clone(), done)).is_ok() {
            // No answer means that Redis is down: the subscription follows when Redis is back.
            let _answer = tokio::time::timeout(self.redis.response_timeout(), confirmed).await;
        }
        Subscription { channel, receiver: Some(receiver), hub: self.hub.clone() }
    }

    fn channel(&self, topic: &str) -> String {
        format!("{}wake:{topic}", self.redis.prefix())
    }
}

/// Hints of one topic.
#[derive(Debug)]
pub struct Subscription {
    channel: String,
    receiver: Option<broadcast::Receiver<Hint>>,
    hub: Arc<Hub>,
}

impl Subscription {
    /// Returns the next hint. Without Redis it never comes.
    pub async fn recv(&mut self) -> Hint {
        let Some(receiver) = &mut self.receiver else { return pending().await };
        match receiver.recv().await {
            Ok(hint) => hint,
            Err(broadcast::error::RecvError::Lagged(_)) => Hint::Look,
            // The hub has ended with the process's soft stop.
            Err(broadcast::error::RecvError::Closed) => pending().await,
        }
    }

    /// Returns the next hint, or [`Hint::Look`] after `poll` without one.
    pub async fn next(&mut self, poll: Duration) -> Hint {
        tokio::time::timeout(poll, self.recv()).await.unwrap_or(Hint::Look)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.receiver = None;
        let mut topics = self.hub.topics();
        if topics.get(&self.channel).is_some_and(|sender| sender.receiver_count() == 0) {
            topics.remove(&self.channel);
            // The hub ends only when the process stops.
            let _sent = self.hub.orders.send(Order::Close(std::mem::take(&mut self.channel)));
        }
    }
}

impl Hub {
    fn topics(&self) -> MutexGuard<'_, HashMap<String, broadcast::Sender<Hint>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a hint to the readers of one channel, if the channel still has readers.
    fn tell(&self, channel: &str, hint: Hint) {
        if let Some(sender) = self.topics().get(channel) {
            let _readers = sender.send(hint);
        }
    }

    fn tell_all_to_look(&self) {
        for sender in self.topics().values() {
            let _readers = sender.send(Hint::Look);
        }
    }
}

/// Keeps one connection while it works, then makes another.
async fn run(redis: Redis, hub: Arc<Hub>, mut inbox: mpsc::UnboundedReceiver<Order>) {
    let mut reported = false;
    loop {
        match redis.pubsub().await {
            Ok(pubsub) => {
                let (sink, stream) = pubsub.split();
                reported = false;
                serve(&hub, &mut inbox, Link { sink, limit: redis.response_timeout() }, stream).await;
                tracing::debug!("subscriptions lost, subscribing again");
            }
            Err(error) if !reported => {
                reported = true;
                let error = crate::error::Chain(&error);
                tracing::warn!(%error, "no wake-ups while Redis is unreachable");
            }
            Err(_) => {}
        }
        // Subscribers stop waiting for a confirmation; the next connection begins with the topics wanted
        // then.
        let _over = tokio::time::timeout(RECONNECT, async {
            while let Some(order) = inbox.recv().await {
                drop(order);
            }
        })
        .await;
    }
}

/// Sending half of a connection.
struct Link {
    sink: PubSubSink,
    limit: Duration,
}

/// A connection that does not work.
struct Broken;

impl Link {
    async fn subscribe(&mut self, channels: &[String]) -> Result<(), Broken> {
        if channels.is_empty() {
            return Ok(());
        }
        let done = tokio::time::timeout(self.limit, self.sink.subscribe(channels)).await;
        matches!(done, Ok(Ok(()))).then_some(()).ok_or(Broken)
    }

    async fn unsubscribe(&mut self, channels: &[String]) -> Result<(), Broken> {
        if channels.is_empty() {
            return Ok(());
        }
        let done = tokio::time::timeout(self.limit, self.sink.unsubscribe(channels)).await;
        matches!(done, Ok(Ok(()))).then_some(()).ok_or(Broken)
    }

    async fn ping(&mut self) -> Result<(), Broken> {
        let done = tokio::time::timeout(self.limit, self.sink.ping::<redis::Value>()).await;
        matches!(done, Ok(Ok(_))).then_some(()).ok_or(Broken)
    }
}

/// Serves one connection until it breaks.
async fn serve(
    hub: &Hub,
    inbox: &mut mpsc::UnboundedReceiver<Order>,
    mut link: Link,
    mut stream: PubSubStream,
) {
    let wanted: Vec<String> = hub.topics().keys().cloned().collect();
    if link.subscribe(&wanted).await.is_err() {
        return;
    }
    let mut open: HashSet<String> = wanted.into_iter().collect();
    // Hints published while there was no connection are lost.
    hub.tell_all_to_look();
    let mut pings = tokio::time::interval(PING_PERIOD);
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut orders = Vec::with_capacity(BATCH);
    loop {
        let done = tokio::select! {
            message = stream.next() => match message {
                Some(message) => {
                    let payload = Bytes::copy_from_slice(message.get_payload_bytes());
                    hub.tell(message.get_channel_name(), Hint::Message(payload));
                    Ok(())
                }
                None => Err(Broken),
            },
            count = inbox.recv_many(&mut orders, BATCH) => {
                if count == 0 { Err(Broken) } else { obey(hub, &mut link, &mut open, &mut orders).await }
            }
            _ = pings.tick() => link.ping().await,
        };
        if done.is_err() {
            return;
        }
    }
}

/// Subscribes and unsubscribes for a batch of orders, in two round trips. It reads from the hub whether a
/// topic is still wanted, so an outdated order does no harm.
async fn obey(
    hub: &Hub,
    link: &mut Link,
    open: &mut HashSet<String>,
    orders: &mut Vec<Order>,
) -> Result<(), Broken> {
    let (mut opening, mut closing, mut waiting) = (HashSet::new(), HashSet::new(), Vec::new());
    {
        let topics = hub.topics();
        for order in orders.drain(..) {
            let channel = match order {
                Order::Open(channel, done) => {
                    waiting.push(done);
                    channel
                }
                Order::Close(channel) => channel,
            };
            match (topics.contains_key(&channel), open.contains(&channel)) {
                (true, false) => drop(opening.insert(channel)),
                (false, true) => drop(closing.insert(channel)),
                (true, true) | (false, false) => {}
            }
        }
    }
    let (opening, closing): (Vec<_>, Vec<_>) = (opening.into_iter().collect(), closing.into_iter().collect());
    link.subscribe(&opening).await?;
    link.unsubscribe(&closing).await?;
    for channel in &closing {
        open.remove(channel);
    }
    open.extend(opening);
    for done in waiting {
        // The reader may have stopped waiting.
        let _heard = done.send(());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
