//! The replicas of one peer, and the choice among them.
//!
//! Each call begins with the next replica in turn. If that replica cannot be reached or is stopping, the call
//! goes to the next one, and later calls try that replica last for one second. A replica that is passed over
//! has not begun the call, so the call is not done twice. If the outcome of a call is unknown, it is not
//! repeated here; the caller decides.

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
use crate::error;

/// Reason with which a stopping replica refuses a call. Another replica may be called at once.
pub const REPLICA_STOPPING: &str = "REPLICA_STOPPING";

/// Time for which a replica that could not be reached, or is stopping, is tried last.
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
    /// Time in milliseconds after `started` until which the replica is tried last.
    away_until: AtomicU64,
}

impl Replicas {
    /// Builds unconnected channels to the replicas.
    pub(super) fn new(channels: Vec<Channel>) -> Self {
        let replica = |channel| Replica { channel, away_until: AtomicU64::new(0) };
        let replicas = channels.into_iter().map(replica).collect();
        Self(Arc::new(Shared { replicas, next: AtomicUsize::new(0), started: Instant::now() }))
    }

    /// Makes one call. The body is one message, which is kept until a replica has begun the call.
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

    /// Returns the replicas in the order in which to call them: the next in turn first, those to be tried
    /// last at the end.
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

/// Returns whether the replica certainly did not begin the call.
fn never_begun(answer: &Result<Response<Body>, BoxError>) -> bool {
    match answer {
        Ok(response) => Status::from_header_map(response.headers())
            .is_some_and(|status| error::reason_of(&status).as_deref() == Some(REPLICA_STOPPING)),
        Err(error) => {
            let mut cause: Option<&(dyn Error + 'static)> = Some(&**error);
            while let Some(error) = cause {
                // hyper reports "cancelled" if the connection closed before the request was written to it.
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
