//! Senders of this process that wait for the end of their messages.
//!
//! Being told is a hint: whoever is told reads what is stored. What another replica settles is found by looking.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use uuid::Uuid;

type Waiters = HashMap<Uuid, Vec<Arc<Notify>>>;

/// Who waits for what. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<Mutex<Waiters>>);

/// One that waits, until it is dropped.
#[derive(Debug)]
pub struct Waiter {
    message: Uuid,
    notify: Arc<Notify>,
    waiting: Waiting,
}

impl Waiting {
    /// Waits for a message from now on.
    #[must_use]
    pub fn wait_for(&self, message: Uuid) -> Waiter {
        let notify = Arc::<Notify>::default();
        self.lock().entry(message).or_default().push(notify.clone());
        Waiter { message, notify, waiting: self.clone() }
    }

    /// Tells whoever waits for a message that it changed.
    pub fn tell(&self, message: Uuid) {
        for waiter in self.lock().get(&message).into_iter().flatten() {
            waiter.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Returns once the message changed, also if that was before.
    pub async fn told(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut all = self.waiting.lock();
        if let Some(waiters) = all.get_mut(&self.message) {
            waiters.retain(|waiter| !Arc::ptr_eq(waiter, &self.notify));
            if waiters.is_empty() {
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
    async fn everybody_who_waits_is_told_and_nobody_is_kept() {
        let waiting = Waiting::default();
        let message = svc_core::id::new_id();
        let (first, second) = (waiting.wait_for(message), waiting.wait_for(message));
        waiting.tell(svc_core::id::new_id());
        assert!(tokio::time::timeout(Duration::from_millis(20), first.told()).await.is_err());
        // Told before it asks.
        waiting.tell(message);
        first.told().await;
        second.told().await;
        drop(first);
        assert_eq!(waiting.lock()[&message].len(), 1);
        drop(second);
        assert!(waiting.lock().is_empty());
    }
}
