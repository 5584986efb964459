//! Requests that must not run at once with others on the same bytes.

use std::ops::Range;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Which stretches of a disk are in use, by many at once or by one alone. Who waits is served in the order of coming.
#[derive(Default)]
pub(crate) struct RangeLock {
    // Lock order: alone.
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// In the order of coming.
    all: Vec<Entry>,
    next: u64,
    waiting: usize,
}

struct Entry {
    id: u64,
    range: Range<u64>,
    is_exclusive: bool,
    /// Told when the stretch is there for it; `None`: it is.
    wake: Option<oneshot::Sender<()>>,
}

impl Entry {
    fn is_against(&self, other: &Entry) -> bool {
        (self.is_exclusive || other.is_exclusive)
            && self.range.start < other.range.end
            && other.range.start < self.range.end
    }
}

/// A stretch in use, until it is dropped.
pub(crate) struct RangeGuard<'a> {
    lock: &'a RangeLock,
    id: u64,
}

impl RangeLock {
    /// The stretch, together with others.
    pub(crate) async fn shared(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.lock(range, false).await
    }

    /// The stretch, alone.
    pub(crate) async fn exclusive(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.lock(range, true).await
    }

    async fn lock(&self, range: Range<u64>, is_exclusive: bool) -> RangeGuard<'_> {
        let (guard, waiting) = {
            let mut entries = self.entries.lock();
            let id = entries.next;
            entries.next += 1;
            let mut entry = Entry { id, range, is_exclusive, wake: None };
            let mut waiting = None;
            if entries.all.iter().any(|earlier| earlier.is_against(&entry)) {
                let (sender, receiver) = oneshot::channel();
                entry.wake = Some(sender);
                entries.waiting += 1;
                waiting = Some(receiver);
            }
            entries.all.push(entry);
            // From here on the entry goes when the guard does, also where the wait is given up.
            (RangeGuard { lock: self, id }, waiting)
        };
        if let Some(waiting) = waiting {
            // The sender is dropped with the entry only, and that with the guard.
            let _ = waiting.await;
        }
        guard
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut entries = self.lock.entries.lock();
        let Some(at) = entries.all.iter().position(|entry| entry.id == self.id) else { return };
        if entries.all.remove(at).wake.is_some() {
            entries.waiting -= 1;
        }
        if entries.waiting == 0 {
            return;
        }
        for later in at..entries.all.len() {
            let (before, rest) = entries.all.split_at_mut(later);
            let entry = &mut rest[0];
            if entry.wake.is_some() && !before.iter().any(|earlier| earlier.is_against(entry)) {
                if let Some(wake) = entry.wake.take() {
                    // Where nobody waits any more, the guard's drop follows.
                    let _ = wake.send(());
                }
                entries.waiting -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;

    #[test]
    fn readers_share_and_a_writer_waits_its_turn() {
        let lock = RangeLock::default();
        let first = lock.shared(0..10).now_or_never().unwrap();
        let second = lock.shared(5..15).now_or_never().unwrap();
        let mut writer: BoxFuture<_> = Box::pin(lock.exclusive(8..12));
        assert!(writer.as_mut().now_or_never().is_none());
        // Who comes later does not overtake, unless it touches something else.
        let mut late: BoxFuture<_> = Box::pin(lock.shared(11..12));
        assert!(late.as_mut().now_or_never().is_none());
        drop(lock.exclusive(20..30).now_or_never().unwrap());
        drop(first);
        assert!(writer.as_mut().now_or_never().is_none());
        drop(second);
        let writer = writer.now_or_never().unwrap();
        assert!(late.as_mut().now_or_never().is_none());
        drop(writer);
        assert!(late.now_or_never().is_some());
    }

    #[test]
    fn who_gives_up_stands_in_nobodys_way() {
        let lock = RangeLock::default();
        let held = lock.shared(0..10).now_or_never().unwrap();
        let mut given_up: BoxFuture<_> = Box::pin(lock.exclusive(0..10));
        assert!(given_up.as_mut().now_or_never().is_none());
        drop(given_up);
        assert!(lock.shared(0..10).now_or_never().is_some());
        drop(held);
        assert!(lock.exclusive(0..10).now_or_never().is_some());
    }
}
