//! Handles beats that arrive one by one or on a stream.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use steward_proto::registry::v1 as proto;
use svc_core::{
    error::{ServiceError, to_status},
    id::AgentId,
    wire::{auth::Credential, principal::Principal},
};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::{
    app::heartbeat::{Heartbeats, Sender},
    domain::beat::Beat,
    error::Error,
};

/// Maximum beats of one stream that are handled at once.
const IN_FLIGHT: usize = 64;

/// The replies on a stream of beats.
pub(crate) type BeatReplies =
    Pin<Box<dyn Stream<Item = Result<proto::StreamHeartbeatsResponse, Status>> + Send>>;

#[derive(Debug, Clone)]
pub(crate) struct BeatHandler {
    pub heartbeats: Heartbeats,
    /// Period at which a stream checks its credential again.
    pub recheck: Duration,
    /// Ends every open stream.
    pub stop: CancellationToken,
}

impl BeatHandler {
    pub(super) async fn take(
        &self,
        sender: Sender,
        beat: Option<proto::Beat>,
    ) -> Result<proto::BeatAnswer, Status> {
        let beat = Beat::try_from(beat)?;
        Ok(self.heartbeats.beat(sender, &beat).await?.into())
    }

    /// Handles the beats of a stream and replies to them in order.
    pub(super) fn replies(
        self,
        sender: Sender,
        credential: Credential,
        beats: Streaming<proto::StreamHeartbeatsRequest>,
    ) -> BeatReplies {
        let (recheck, stop) = (self.recheck, self.stop.clone());
        let replies = beats.take_until(stop.cancelled_owned()).map(move |beat| {
            let handler = self.clone();
            async move {
                let answer = handler.take(sender, beat?.beat).await?;
                Ok(proto::StreamHeartbeatsResponse { answer: Some(answer) })
            }
        });
        let mut replies = Box::pin(replies.buffered(IN_FLIGHT));
        Box::pin(async_stream::stream! {
            let mut checks = tokio::time::interval_at(Instant::now() + recheck, recheck);
            checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    reply = replies.next() => match reply {
                        Some(reply) => {
                            // A refused beat ends the stream, so that the agent handles the error.
                            let last = reply.is_err();
                            yield reply;
                            if last {
                                return;
                            }
                        }
                        None => return,
                    },
                    _ = checks.tick() => if let Err(refused) = credential.check_again().await {
                        yield Err(to_status(&refused as &dyn ServiceError));
                        return;
                    },
                }
            }
        })
    }
}

/// Returns the agent that a credential names.
pub(super) fn sender(caller: &Principal) -> Result<Sender, Status> {
    let account = caller.account_id()?;
    let agent = AgentId::parse("agent_id", &caller.subject_id).map_err(|_| Error::TokenNotLive)?;
    Ok(Sender { account, agent })
}
