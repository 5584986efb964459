//! The time that requests wait by.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use crate::{Error, nbd};

/// A clock that only goes forward.
pub trait Clock: Send + Sync + 'static {
    /// How long ago some moment was that stays the same.
    fn now(&self) -> Duration;

    /// Returns after this time, whichever executor polls. Where the host has no room for what that takes, it fails.
    fn wait(&self, time: Duration) -> BoxFuture<'static, Result<(), Error>>;
}

/// The host's clock. Waiting ends up to two milliseconds late.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    fn wait(&self, time: Duration) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            let handle = nbd::runtime::handle().map_err(|error| Error::host("wait", error))?;
            let sleep = {
                // The timer is that of the threads which network connections have.
                let _inside = handle.enter();
                tokio::time::sleep(time)
            };
            sleep.await;
            Ok(())
        })
    }
}

/// A clock that tests move.
#[cfg(test)]
pub(crate) mod manual {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::oneshot;

    use super::*;

    /// It stands still until it is moved.
    #[derive(Clone, Default)]
    pub(crate) struct ManualClock(Arc<Mutex<Times>>);

    #[derive(Default)]
    struct Times {
        now: Duration,
        waiting: Vec<(Duration, oneshot::Sender<()>)>,
    }

    impl ManualClock {
        /// Moves it.
        pub(crate) fn advance(&self, time: Duration) {
            let mut times = self.0.lock();
            times.now += time;
            let now = times.now;
            for (_, sender) in times.waiting.extract_if(.., |(until, _)| *until <= now) {
                let _ = sender.send(());
            }
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Duration {
            self.0.lock().now
        }

        fn wait(&self, time: Duration) -> BoxFuture<'static, Result<(), Error>> {
            let (sender, receiver) = oneshot::channel();
            let mut times = self.0.lock();
            let until = times.now.saturating_add(time);
            times.waiting.push((until, sender));
            Box::pin(async move {
                let _ = receiver.await;
                Ok(())
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    #[test]
    fn the_hosts_clock_goes_on_while_somebody_waits_for_it() {
        let before = HostClock.now();
        block_on(HostClock.wait(Duration::from_millis(3))).unwrap();
        assert!(HostClock.now() >= before + Duration::from_millis(3));
    }
}
