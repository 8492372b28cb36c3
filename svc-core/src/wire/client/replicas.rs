//! The replicas of one peer, and which of them gets a call.
//!
//! Calls go round. A replica that cannot be connected to, or says that it is stopping, is passed over for a moment, and
//! the call goes to the next one: none of it was begun, so nothing is done twice. A call whose outcome is unknown is
//! its caller's to repeat, and is not repeated here.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tonic::{ConnectError, Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt};

use super::BoxError;
use crate::wire::error;

/// Reason of a refusal by a replica that takes no more calls; the call may go to another at once.
pub const REPLICA_STOPPING: &str = "REPLICA_STOPPING";

/// How long a replica that was away is passed over.
const AWAY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Replicas(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    replicas: Vec<Replica>,
    next: AtomicUsize,
    started: Instant,
}

#[derive(Debug)]
struct Replica {
    channel: Channel,
    /// Milliseconds after `started` until which it is passed over.
    away_until: AtomicU64,
}

impl Replicas {
    /// Channels to each, not dialled yet.
    pub(super) fn new(channels: Vec<Channel>) -> Self {
        let replica = |channel| Replica { channel, away_until: AtomicU64::new(0) };
        let replicas = channels.into_iter().map(replica).collect();
        Self(Arc::new(Shared { replicas, next: AtomicUsize::new(0), started: Instant::now() }))
    }

    /// Makes one call. Its body is one message: it is held until a replica has taken it.
    pub(super) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut order = self.order();
        let last = order.pop();
        for replica in order {
            match self.0.replicas.get(replica) {
                Some(replica) => match replica.call(&head, &body).await {
                    answer if never_begun(&answer) => self.pass_over(replica),
                    answer => return answer,
                },
                None => continue,
            }
        }
        match last.and_then(|last| self.0.replicas.get(last)) {
            Some(replica) => {
                let answer = replica.call(&head, &body).await;
                if never_begun(&answer) {
                    self.pass_over(replica);
                }
                answer
            }
            None => Err("the peer has no replica".into()),
        }
    }

    /// Every replica, from the one whose turn it is; those that were away come last.
    fn order(&self) -> Vec<usize> {
        let count = self.0.replicas.len();
        let first = self.0.next.fetch_add(1, Ordering::Relaxed);
        let now = self.now();
        let mut order: Vec<usize> = (0..count).map(|step| first.wrapping_add(step) % count).collect();
        order.sort_by_key(|replica| {
            self.0
                .replicas
                .get(*replica)
                .is_some_and(|replica| replica.away_until.load(Ordering::Relaxed) > now)
        });
        order
    }

    fn pass_over(&self, replica: &Replica) {
        let away = u64::try_from(AWAY.as_millis()).unwrap_or(u64::MAX);
        replica.away_until.store(self.now().saturating_add(away), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Replica {
    async fn call(&self, head: &Parts, body: &Bytes) -> Result<Response<Body>, BoxError> {
        let request = Request::from_parts(head.clone(), Body::new(Full::new(body.clone())));
        Ok(self.channel.clone().ready().await?.call(request).await?)
    }
}

/// Whether the replica certainly did nothing of the call.
fn never_begun(answer: &Result<Response<Body>, BoxError>) -> bool {
    match answer {
        Ok(response) => Status::from_header_map(response.headers())
            .is_some_and(|status| error::reason_of(&status).as_deref() == Some(REPLICA_STOPPING)),
        Err(error) => {
            let mut cause: Option<&(dyn Error + 'static)> = Some(&**error);
            while let Some(error) = cause {
                // Cancelled in hyper's words: the connection closed before the request was written to it.
                let unwritten = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
                if unwritten || error.is::<ConnectError>() {
                    return true;
                }
                cause = error.source();
            }
            false
        }
    }
}
