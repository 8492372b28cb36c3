//! Event streams to clients.
//!
//! A task reads the journal and fills a short queue; the transport empties it. A stream ends early when its
//! client takes no event for too long, when the client's credential is revoked, and when this process stops.
//! The last item then names the reason, and the client resumes by cursor on any replica.

use std::{pin::Pin, time::Duration};

use futures::Stream;
use steward_proto::chat::v1 as proto;
use svc_core::{id::TurnId, run::lifecycle::Lifecycle, wire::auth::Credential};
use tokio::{
    sync::mpsc::{self, error::SendTimeoutError},
    time::Instant,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Status;

use super::convert;
use crate::{
    error::{Error, Result},
    journal::Reader,
};

/// Maximum events that wait for the transport.
const QUEUE: usize = 64;

/// Time between two checks of a stream's credential.
const RECHECK: Duration = Duration::from_secs(5);

/// The stream that a handler returns.
pub(super) type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Debug, Clone)]
pub(crate) struct Streams {
    lifecycle: Lifecycle,
    slow_reader: Duration,
}

impl Streams {
    /// Streams end when `lifecycle` stops, or when their client has taken no event for `slow_reader`.
    pub(crate) fn new(lifecycle: Lifecycle, slow_reader: Duration) -> Self {
        Self { lifecycle, slow_reader }
    }

    /// Streams the events of `reader`, each wrapped as the method's response.
    pub(super) fn open<T: Send + 'static>(
        &self,
        turn_id: TurnId,
        reader: Reader,
        credential: Credential,
        wrap: fn(proto::TurnEvent) -> T,
    ) -> Events<T> {
        let (queue, events) = mpsc::channel(QUEUE);
        // Reserves a place for the last item, which must fit however slow the client is.
        let last_item = queue.clone().try_reserve_owned().ok();
        let (soft, slow_reader) = (self.lifecycle.soft(), self.slow_reader);
        drop(self.lifecycle.spawn("event stream", async move {
            let ended = tokio::select! {
                ended = send(reader, turn_id, &queue, slow_reader) => ended,
                refused = watch(credential) => Err(refused),
                () = soft.cancelled() => Err(Error::Stopping),
            };
            if let (Err(error), Some(room)) = (ended, last_item) {
                room.send(Err(error.into()));
            }
        }));
        Box::pin(
            ReceiverStream::new(events).map(move |event: Result<proto::TurnEvent, Status>| event.map(wrap)),
        )
    }
}

/// Sends all events until the turn's last one, or until the client has left.
async fn send(
    mut reader: Reader,
    turn_id: TurnId,
    queue: &mpsc::Sender<Result<proto::TurnEvent, Status>>,
    slow_reader: Duration,
) -> Result<()> {
    loop {
        let events = tokio::select! {
            events = reader.next() => events?,
            () = queue.closed() => return Ok(()),
        };
        let Some(events) = events else { return Ok(()) };
        for event in events {
            match queue.send_timeout(Ok(convert::event(turn_id, event)), slow_reader).await {
                Ok(()) => {}
                Err(SendTimeoutError::Timeout(_)) => return Err(Error::SlowReader),
                Err(SendTimeoutError::Closed(_)) => return Ok(()),
            }
        }
    }
}

/// Returns once the credential is no longer valid.
async fn watch(credential: Credential) -> Error {
    let mut next = Instant::now() + RECHECK;
    loop {
        tokio::time::sleep_until(next).await;
        if credential.check_again().await.is_err() {
            return Error::CredentialRevoked;
        }
        next = Instant::now() + RECHECK;
    }
}
