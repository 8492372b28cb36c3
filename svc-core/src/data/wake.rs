//! Wake-ups: hints that replicas send each other over Redis pub/sub when there is something new to read in
//! Postgres.
//!
//! A hint may be lost, doubled or late, and while Redis is unreachable there are none. Therefore a reader
//!
//! 1. subscribes ([`Wake::subscribe`] returns when Redis has confirmed the subscription or is known to be
//!    unreachable),
//! 2. reads Postgres from its cursor to the newest row,
//! 3. waits with [`Subscription::next`] and continues with step 2. `next` returns [`Hint::Look`] when hints
//!    may have been lost, and when none has arrived for the time `poll`.
//!
//! All subscriptions of a process share one connection. A task, the hub, pings it and replaces it when it
//! fails; the hub then subscribes to the topics again and sends [`Hint::Look`] to every reader.

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

/// Maximum number of hints that wait for a slow reader. A reader that falls further behind receives
/// [`Hint::Look`].
const BACKLOG: usize = 256;

/// Maximum number of orders that the hub handles together.
const BATCH: usize = 256;

/// Time between two pings. Without them the hub would not notice a server that vanished without closing the
/// connection.
const PING_PERIOD: Duration = Duration::from_secs(2);

/// Delay before the hub opens a new connection.
const RECONNECT: Duration = Duration::from_millis(500);

/// A hint to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    Message(Bytes),
    /// The reader should read Postgres again: hints may have been lost, or none came within `poll`.
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
    /// Subscribe to the channel, and report when that is done. The report fails if Redis is unreachable.
    Open(String, oneshot::Sender<()>),
    /// Unsubscribe from the channel, unless it has a reader again.
    Close(String),
}

impl Wake {
    /// Starts this process's hub, the task that holds the connection.
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

    /// Sends a hint to the subscribers of `topic`. If Redis is unreachable, the hint is lost; readers poll as
    /// well, so that is no error.
    pub async fn publish(&self, topic: &str, payload: &[u8]) {
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.channel(topic)).arg(payload);
        if let Err(error) = self.redis.query::<()>(&command).await {
            tracing::debug!(error = %crate::error::Chain(&error), topic, "wake-up not sent");
        }
    }

    /// Sends hints to the subscribers of several topics in one round trip. Returns the number of connections
    /// that received them, added over all messages: one for each process that subscribes to the topic.
    /// Returns 0 if Redis is unreachable.
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

    /// Subscribes to `topic`. A hint that is published after this function returns is received, provided that
    /// Redis is reachable and stays so.
    pub async fn subscribe(&self, topic: &str) -> Subscription {
        let channel = self.channel(topic);
        let receiver = {
            let mut topics = self.hub.topics();
            topics.entry(channel.clone()).or_insert_with(|| broadcast::channel(BACKLOG).0).subscribe()
        };
        let (done, confirmed) = oneshot::channel();
        if self.hub.orders.send(Order::Open(channel.clone(), done)).is_ok() {
            // No confirmation in time means that Redis is unreachable: the hub subscribes when it has a
            // connection again.
            let _answer = tokio::time::timeout(self.redis.response_timeout(), confirmed).await;
        }
        Subscription { channel, receiver: Some(receiver), hub: self.hub.clone() }
    }

    fn channel(&self, topic: &str) -> String {
        format!("{}wake:{topic}", self.redis.prefix())
    }
}

/// A reader's subscription to one topic.
#[derive(Debug)]
pub struct Subscription {
    channel: String,
    receiver: Option<broadcast::Receiver<Hint>>,
    hub: Arc<Hub>,
}

impl Subscription {
    /// Waits for the next hint, without a time limit: while Redis is unreachable, none arrives.
    pub async fn recv(&mut self) -> Hint {
        let Some(receiver) = &mut self.receiver else { return pending().await };
        match receiver.recv().await {
            Ok(hint) => hint,
            Err(broadcast::error::RecvError::Lagged(_)) => Hint::Look,
            // The hub has ended, because the process is stopping.
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

    /// Sends a hint to the readers of a channel, if it still has any.
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

/// Opens a connection and serves it until it breaks, again and again.
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
        // Drops the orders that arrive meanwhile, so that subscribers stop waiting for a confirmation. The
        // next connection begins with the topics that have readers then.
        let _over = tokio::time::timeout(RECONNECT, async {
            while let Some(order) = inbox.recv().await {
                drop(order);
            }
        })
        .await;
    }
}

/// The sending half of a connection, with the maximum wait for an answer.
struct Link {
    sink: PubSubSink,
    limit: Duration,
}

/// Means that the connection does not work.
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

/// Serves one connection until it breaks: subscribes to all topics that have readers, passes on hints,
/// carries out orders, and sends pings.
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

/// Carries out a batch of orders, in one round trip for all new subscriptions and one for all that end.
/// Whether a topic still has readers is read from the hub, so an outdated order has no effect.
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
        // The subscriber may have stopped waiting for this confirmation.
        let _heard = done.send(());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
