//! What a user of a disk asked of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A kind of request that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Reads.
    Read,
    /// Writes, and zeros that are made.
    Write,
    /// Flushes.
    Flush,
    /// Discards.
    Unmap,
}

/// Counters of one kind of request.
#[derive(Debug, Default)]
struct Counters {
    operations: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    invalid: AtomicU64,
    nanoseconds: AtomicU64,
}

/// Counters of one kind of request, as they were at some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that succeeded.
    pub operations: u64,
    /// Bytes that those moved.
    pub bytes: u64,
    /// Requests that the disk failed.
    pub failed: u64,
    /// Requests that could not be made, as those beyond the end of the disk.
    pub invalid: u64,
    /// How long the requests took, together.
    pub time: Duration,
}

/// Counters of all that a user asked of a disk.
#[derive(Debug)]
pub struct Statistics {
    counters: [Counters; 4],
    started: Instant,
    /// When the last request ended, nanoseconds since the start; 0 if there was none.
    last: AtomicU64,
}

impl Default for Statistics {
    fn default() -> Statistics {
        Statistics { counters: Default::default(), started: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Statistics {
    /// The counters of a kind of request.
    pub fn of(&self, kind: Counted) -> Count {
        let counters = &self.counters[kind as usize];
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Count {
            operations: get(&counters.operations),
            bytes: get(&counters.bytes),
            failed: get(&counters.failed),
            invalid: get(&counters.invalid),
            time: Duration::from_nanos(get(&counters.nanoseconds)),
        }
    }

    /// For how long there has been no request; `None` if there was none yet.
    pub fn idle(&self) -> Option<Duration> {
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            last => Some(self.started.elapsed().saturating_sub(Duration::from_nanos(last))),
        }
    }

    /// A request could not be made.
    pub(crate) fn invalid(&self, kind: Counted) {
        self.counters[kind as usize].invalid.fetch_add(1, Ordering::Relaxed);
    }

    /// When now is, for [`Statistics::ended`].
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A request of `bytes` bytes that began at `began` ended.
    pub(crate) fn ended(&self, kind: Counted, bytes: u64, began: u64, succeeded: bool) {
        let counters = &self.counters[kind as usize];
        let now = self.now();
        self.last.store(now.max(1), Ordering::Relaxed);
        if succeeded {
            counters.operations.fetch_add(1, Ordering::Relaxed);
            counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            counters.failed.fetch_add(1, Ordering::Relaxed);
        }
        counters.nanoseconds.fetch_add(now.saturating_sub(began), Ordering::Relaxed);
    }
}
