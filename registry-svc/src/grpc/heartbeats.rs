//! Beats on the wire, one by one or on a stream.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use steward_proto::registry::v1 as proto;
use svc_core::{
    id::AgentId,
    wire::{auth::Credential, error::to_status, principal::Principal},
};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::status;
use crate::{
    app::heartbeat::{Heartbeats, Sender},
    domain::beat::Beat,
    error::Error,
};

/// Beats of one stream that may be on their way at once.
const IN_FLIGHT: usize = 64;

/// Answers of a stream.
pub type Answers = Pin<Box<dyn Stream<Item = Result<proto::StreamHeartbeatsResponse, Status>> + Send>>;

/// Takes beats off the wire.
#[derive(Debug, Clone)]
pub struct BeatDoor {
    heartbeats: Heartbeats,
    recheck: Duration,
    stop: CancellationToken,
}

impl BeatDoor {
    /// Hands beats to `heartbeats`. Streams ask about their credential every `recheck`, and end with `stop`.
    #[must_use]
    pub fn new(heartbeats: Heartbeats, recheck: Duration, stop: CancellationToken) -> Self {
        Self { heartbeats, recheck, stop }
    }

    /// Takes one beat.
    pub(super) async fn take(
        &self,
        sender: Sender,
        beat: Option<proto::Beat>,
    ) -> Result<proto::BeatAnswer, Status> {
        let beat = Beat::try_from(beat).map_err(status)?;
        self.heartbeats.beat(sender, &beat).await.map(Into::into).map_err(status)
    }

    /// Answers the beats of a stream.
    pub(super) fn answers(
        self,
        sender: Sender,
        credential: Credential,
        beats: Streaming<proto::StreamHeartbeatsRequest>,
    ) -> Answers {
        let (recheck, stop) = (self.recheck, self.stop.clone());
        let answers = beats.take_until(stop.cancelled_owned()).map(move |beat| {
            let door = self.clone();
            async move {
                let answer = door.take(sender, beat?.beat).await?;
                Ok(proto::StreamHeartbeatsResponse { answer: Some(answer) })
            }
        });
        let mut answers = Box::pin(answers.buffered(IN_FLIGHT));
        Box::pin(async_stream::stream! {
            let mut checks = tokio::time::interval_at(Instant::now() + recheck, recheck);
            checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    answer = answers.next() => match answer {
                        Some(answer) => {
                            // A refused beat ends the stream: the agent must look why.
                            let last = answer.is_err();
                            yield answer;
                            if last {
                                return;
                            }
                        }
                        None => return,
                    },
                    _ = checks.tick() => if let Err(refused) = credential.check_again().await {
                        yield Err(to_status(&refused));
                        return;
                    },
                }
            }
        })
    }
}

/// The agent that a credential names.
pub(super) fn sender(caller: &Principal) -> Result<Sender, Status> {
    let account = caller.account_id().map_err(status)?;
    let agent = AgentId::parse("agent_id", &caller.subject_id).map_err(|_| status(Error::TokenNotLive))?;
    Ok(Sender { account, agent })
}
