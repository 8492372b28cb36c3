//! Notices about accepted and ended turns, for the workers of this process and, as Redis hints, of the other
//! replicas. A notice may be lost, so every process also scans for turns every `scan_period`.

use bytes::Bytes;
use svc_core::{
    data::wake::{Hint, Subscription, Wake},
    id::{self, TurnId},
    run::lifecycle::Lifecycle,
};
use tokio::sync::{broadcast, mpsc};

/// The topic of notices between replicas.
const TOPIC: &str = "chat.turns";

/// Maximum notices that wait for a listener or for Redis; more are dropped.
const BACKLOG: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A turn can be claimed.
    Waits(TurnId),
    /// A turn was ended, perhaps not by its worker.
    Ended(TurnId),
    /// Notices may have been missed.
    Missed,
}

/// Sends notices; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Notices {
    here: broadcast::Sender<Notice>,
    outbox: mpsc::Sender<Notice>,
    own: [u8; 16],
    wake: Wake,
}

impl Notices {
    pub(crate) fn start(wake: Wake, lifecycle: &Lifecycle) -> Self {
        let (outbox, mut inbox) = mpsc::channel::<Notice>(BACKLOG);
        let own = *id::new_id().as_bytes();
        let (sender, hard) = (wake.clone(), lifecycle.hard());
        // The task ends when the last `Notices` is dropped.
        drop(lifecycle.spawn("turn notices", async move {
            while let Some(Some(notice)) = hard.run_until_cancelled(inbox.recv()).await {
                if let Some(payload) = encode(own, notice) {
                    sender.publish(TOPIC, &payload).await;
                }
            }
        }));
        Self { here: broadcast::channel(BACKLOG).0, outbox, own, wake }
    }

    /// Says that a turn can be claimed.
    pub(crate) fn turn_waits(&self, id: TurnId) {
        self.send(Notice::Waits(id));
    }

    /// Says that a turn was ended, and that `next`, the session's next queued turn, can be claimed.
    pub(crate) fn turn_ended(&self, id: TurnId, next: Option<TurnId>) {
        self.send(Notice::Ended(id));
        if let Some(next) = next {
            self.send(Notice::Waits(next));
        }
    }

    /// Starts to listen to the notices of all replicas.
    pub(crate) async fn listen(&self) -> Listener {
        Listener { here: self.here.subscribe(), remote: self.wake.subscribe(TOPIC).await, own: self.own }
    }

    fn send(&self, notice: Notice) {
        // A notice without a listener, or with a full outbox, may be lost: every worker scans.
        let _listeners = self.here.send(notice);
        let _full = self.outbox.try_send(notice);
    }
}

#[derive(Debug)]
pub(crate) struct Listener {
    here: broadcast::Receiver<Notice>,
    remote: Subscription,
    own: [u8; 16],
}

impl Listener {
    /// Waits for the next notice. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Notice {
        loop {
            let hint = tokio::select! {
                notice = self.here.recv() => match notice {
                    Ok(notice) => return notice,
                    Err(broadcast::error::RecvError::Lagged(_)) => return Notice::Missed,
                    // This process sends no more notices; waits for those of other replicas.
                    Err(broadcast::error::RecvError::Closed) => self.remote.recv().await,
                },
                hint = self.remote.recv() => hint,
            };
            match hint {
                Hint::Look => return Notice::Missed,
                Hint::Message(payload) => {
                    if let Some(notice) = decode(self.own, &payload) {
                        return notice;
                    }
                }
            }
        }
    }
}

fn encode(own: [u8; 16], notice: Notice) -> Option<Vec<u8>> {
    let (kind, id) = match notice {
        Notice::Waits(id) => (b'w', id),
        Notice::Ended(id) => (b'e', id),
        Notice::Missed => return None,
    };
    Some([&own[..], &[kind], id.0.as_bytes()].concat())
}

/// Decodes another process's notice; `None` if this process sent it, or its kind is unknown to this version.
fn decode(own: [u8; 16], payload: &Bytes) -> Option<Notice> {
    let (sender, rest) = payload.split_at_checked(16)?;
    let (kind, id) = rest.split_first()?;
    let id = TurnId(uuid::Uuid::from_slice(id).ok()?);
    match kind {
        _ if sender == own => None,
        b'w' => Some(Notice::Waits(id)),
        b'e' => Some(Notice::Ended(id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_decoded_by_every_process_but_its_sender() {
        for notice in [Notice::Waits(TurnId::new()), Notice::Ended(TurnId::new())] {
            let payload = Bytes::from(encode([1; 16], notice).unwrap());
            assert_eq!(decode([2; 16], &payload), Some(notice));
            assert_eq!(decode([1; 16], &payload), None);
        }
        assert_eq!(decode([2; 16], &Bytes::from_static(b"x")), None);
    }
}
