//! The senders of this process that wait for the end of their messages.
//!
//! A notification is a hint: the sender then reads the stored message. If another replica delivers the
//! message, no notification comes; the sender finds the outcome when it next reads the message.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use uuid::Uuid;

type ByMessage = HashMap<Uuid, Vec<Arc<Notify>>>;

/// The waiting senders by message. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiters(Arc<Mutex<ByMessage>>);

/// A waiting sender; it unsubscribes when it is dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    message: Uuid,
    notify: Arc<Notify>,
    waiters: Waiters,
}

impl Waiters {
    /// Subscribes to a message. Notifications from now on are kept for the waiter.
    pub(crate) fn subscribe(&self, message: Uuid) -> Waiter {
        let notify = Arc::<Notify>::default();
        self.lock().entry(message).or_default().push(notify.clone());
        Waiter { message, notify, waiters: self.clone() }
    }

    /// Notifies the senders that wait for a message.
    pub(crate) fn notify(&self, message: Uuid) {
        for notify in self.lock().get(&message).into_iter().flatten() {
            notify.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByMessage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Returns once the message was notified, also if that was before this call.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut all = self.waiters.lock();
        if let Some(notifies) = all.get_mut(&self.message) {
            notifies.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
            if notifies.is_empty() {
                all.remove(&self.message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn every_waiter_is_notified_and_none_is_kept() {
        let waiters = Waiters::default();
        let message = svc_core::id::new_id();
        let (first, second) = (waiters.subscribe(message), waiters.subscribe(message));
        waiters.notify(svc_core::id::new_id());
        assert!(tokio::time::timeout(Duration::from_millis(20), first.notified()).await.is_err());
        // Notifies before the waiters wait.
        waiters.notify(message);
        first.notified().await;
        second.notified().await;
        drop(first);
        assert_eq!(waiters.lock()[&message].len(), 1);
        drop(second);
        assert!(waiters.lock().is_empty());
    }
}
