//! Notices between those who accept and end turns and those who run them: to this process at once, to the others
//! as hints. A notice may be lost; workers look by themselves every second.

use bytes::Bytes;
use svc_core::{
    data::wake::{Hint, Subscription, Wake},
    id::{self, TurnId},
    run::lifecycle::Lifecycle,
};
use tokio::sync::{broadcast, mpsc};

/// The topic on which replicas tell each other.
const TOPIC: &str = "chat.turns";

/// Notices that may wait for a listener or for Redis before they are dropped.
const BACKLOG: usize = 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A turn can be claimed.
    Waits(TurnId),
    /// A turn was ended by somebody who does not run it.
    Ended(TurnId),
    /// Something may have been missed.
    Look,
}

/// Sends and hears notices.
#[derive(Debug, Clone)]
pub struct Notices {
    here: broadcast::Sender<Notice>,
    outbox: mpsc::Sender<Notice>,
    own: [u8; 16],
    wake: Wake,
}

impl Notices {
    /// Starts the sender.
    #[must_use]
    pub fn start(wake: Wake, lifecycle: &Lifecycle) -> Self {
        let (outbox, mut inbox) = mpsc::channel::<Notice>(BACKLOG);
        let own = *id::new_id().as_bytes();
        let (sender, hard) = (wake.clone(), lifecycle.hard());
        // Ends with the last handle.
        drop(lifecycle.spawn("turn notices", async move {
            while let Some(Some(notice)) = hard.run_until_cancelled(inbox.recv()).await {
                if let Some(payload) = encode(own, notice) {
                    sender.publish(TOPIC, &payload).await;
                }
            }
        }));
        Self { here: broadcast::channel(BACKLOG).0, outbox, own, wake }
    }

    /// A turn waits to be claimed.
    pub fn turn_waits(&self, id: TurnId) {
        self.send(Notice::Waits(id));
    }

    /// A turn was ended; `next` is the session's turn that may now be claimed.
    pub fn turn_ended(&self, id: TurnId, next: Option<TurnId>) {
        self.send(Notice::Ended(id));
        if let Some(next) = next {
            self.send(Notice::Waits(next));
        }
    }

    /// Listens to this process and to the others.
    pub async fn listen(&self) -> Listener {
        Listener { here: self.here.subscribe(), others: self.wake.subscribe(TOPIC).await, own: self.own }
    }

    fn send(&self, notice: Notice) {
        // Nobody listening, or a full outbox, is no loss: workers look by themselves.
        let _listeners = self.here.send(notice);
        let _full = self.outbox.try_send(notice);
    }
}

/// Hears notices.
#[derive(Debug)]
pub struct Listener {
    here: broadcast::Receiver<Notice>,
    others: Subscription,
    own: [u8; 16],
}

impl Listener {
    /// The next notice. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Notice {
        loop {
            let hint = tokio::select! {
                notice = self.here.recv() => match notice {
                    Ok(notice) => return notice,
                    Err(broadcast::error::RecvError::Lagged(_)) => return Notice::Look,
                    // The last handle is gone, so nobody will say anything here any more.
                    Err(broadcast::error::RecvError::Closed) => self.others.recv().await,
                },
                hint = self.others.recv() => hint,
            };
            match hint {
                Hint::Look => return Notice::Look,
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
        Notice::Look => return None,
    };
    Some([&own[..], &[kind], id.0.as_bytes()].concat())
}

/// What another process sent; `None` if it was this one, or is of a version that this one does not know.
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
    fn a_notice_is_heard_by_others_and_not_by_its_sender() {
        for notice in [Notice::Waits(TurnId::new()), Notice::Ended(TurnId::new())] {
            let payload = Bytes::from(encode([1; 16], notice).unwrap());
            assert_eq!(decode([2; 16], &payload), Some(notice));
            assert_eq!(decode([1; 16], &payload), None);
        }
        assert_eq!(decode([2; 16], &Bytes::from_static(b"x")), None);
    }
}
