//! Counts those who use something, and lets others wait until nobody does.

use std::sync::Arc;

use tokio::sync::watch;

/// How many use something.
pub(super) struct Users(watch::Sender<usize>);

impl Default for Users {
    fn default() -> Users {
        Users(watch::channel(0).0)
    }
}

/// One who uses it, until it is dropped.
pub(super) struct User(Arc<Users>);

impl Users {
    /// One more.
    pub(super) fn enter(self: &Arc<Users>) -> User {
        self.0.send_modify(|count| *count += 1);
        User(self.clone())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Returns once there are none.
    pub(super) async fn all_gone(&self) {
        // The sender is there as long as we are.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// Returns once it is true.
pub(super) async fn ended(ending: &mut watch::Receiver<bool>) {
    // Where there is nobody left who could say it, it is over as well.
    let _ = ending.wait_for(|ended| *ended).await;
}
