//! Event streams towards clients.
//!
//! A task reads the journal and fills a short queue; the transport empties it. A client that takes nothing for too
//! long is cut loose, one whose credential was revoked is told so, and when this process stops its streams end:
//! in each case the last word says why, and the client goes on by cursor, here or elsewhere.

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

use super::{convert, status};
use crate::{
    error::{Error, Result},
    journal::Reader,
};

/// Events that wait for the transport.
const QUEUE: usize = 64;

/// How often the credential behind a stream is asked for again.
const RECHECK: Duration = Duration::from_secs(5);

/// What a handler answers with.
pub(super) type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Opens streams on one process.
#[derive(Debug, Clone)]
pub struct Streams {
    lifecycle: Lifecycle,
    slow_reader: Duration,
}

impl Streams {
    /// Streams that end with `lifecycle`; a client may be silent for `slow_reader`.
    #[must_use]
    pub fn new(lifecycle: Lifecycle, slow_reader: Duration) -> Self {
        Self { lifecycle, slow_reader }
    }

    /// The events of `reader`, each wrapped as the method's response.
    pub(super) fn open<T: Send + 'static>(
        &self,
        turn_id: TurnId,
        reader: Reader,
        credential: Option<Credential>,
        wrap: fn(proto::TurnEvent) -> T,
    ) -> Events<T> {
        let (queue, events) = mpsc::channel(QUEUE);
        // Kept free for the last word, which must find room however slow the client is.
        let last_word = queue.clone().try_reserve_owned().ok();
        let (soft, slow_reader) = (self.lifecycle.soft(), self.slow_reader);
        drop(self.lifecycle.spawn("event stream", async move {
            let ended = tokio::select! {
                ended = send(reader, turn_id, &queue, slow_reader) => ended,
                refused = watch(credential) => Err(refused),
                () = soft.cancelled() => Err(Error::Stopping),
            };
            if let (Err(error), Some(room)) = (ended, last_word) {
                room.send(Err(status(error)));
            }
        }));
        Box::pin(
            ReceiverStream::new(events).map(move |event: Result<proto::TurnEvent, Status>| event.map(wrap)),
        )
    }
}

/// Sends everything until the turn's last event, or until the client is gone.
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

/// Comes back once the credential is no longer good.
async fn watch(credential: Option<Credential>) -> Error {
    let Some(credential) = credential else { return std::future::pending().await };
    let mut next = Instant::now() + RECHECK;
    loop {
        tokio::time::sleep_until(next).await;
        if credential.check_again().await.is_err() {
            return Error::CredentialRevoked;
        }
        next = Instant::now() + RECHECK;
    }
}
