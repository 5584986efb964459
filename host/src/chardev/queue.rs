//! The bounded byte queue and the flow-controlled input that all backends with a thread share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{CharEvent, CharFrontend};

/// How many bytes wait in a queue at most.
const CAPACITY: usize = 64 * 1024;

/// Bytes on their way to a thread that hands them on: output for the host, or typed input for a guest device.
#[derive(Default)]
pub(super) struct ByteQueue {
    // Lock order: alone.
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    /// The writer holds bytes that it took out and has not written yet.
    writing: bool,
    /// A write took fewer bytes than it was given since the last call of `writable`.
    refused: bool,
    closed: bool,
}

impl ByteQueue {
    /// See [`super::CharBackend::write`].
    pub(super) fn push(&self, data: &[u8]) -> usize {
        let mut state = self.state.lock();
        let taken = data.len().min(CAPACITY.saturating_sub(state.bytes.len()));
        state.refused |= taken < data.len();
        let was_empty = state.bytes.is_empty();
        state.bytes.extend(&data[..taken]);
        if was_empty && taken > 0 {
            self.changed.notify_all();
        }
        taken
    }

    /// Waits for bytes and takes them; `None` once the queue is closed and empty. The flag says that the frontend waits
    /// for room.
    pub(super) fn take(&self) -> Option<(Vec<u8>, bool)> {
        let mut state = self.state.lock();
        state.writing = false;
        self.changed.notify_all();
        while state.bytes.is_empty() {
            if state.closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
        state.writing = true;
        let refused = std::mem::take(&mut state.refused);
        Some((std::mem::take(&mut state.bytes).into(), refused))
    }

    /// Drops what waits; true if the frontend waits for room.
    pub(super) fn clear(&self) -> bool {
        let mut state = self.state.lock();
        state.bytes.clear();
        self.changed.notify_all();
        std::mem::take(&mut state.refused)
    }

    /// Lets [`ByteQueue::take`] end once everything is written.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// See [`super::CharBackend::flush`].
    pub(super) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        while state.writing || !state.bytes.is_empty() {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}

/// The frontend, and the place where a reader waits until it can take input.
#[derive(Default)]
pub(super) struct Input {
    // Lock order: alone; the frontend is called without it.
    state: Mutex<InputState>,
    changed: Condvar,
}

#[derive(Default)]
struct InputState {
    frontend: Option<Arc<dyn CharFrontend>>,
    /// Counts changes, so that one between the question and the wait is not lost.
    changes: u64,
    ended: bool,
}

impl Input {
    pub(super) fn connect(&self, frontend: Arc<dyn CharFrontend>) {
        let mut state = self.state.lock();
        state.frontend = Some(frontend);
        state.changes += 1;
        self.changed.notify_all();
    }

    pub(super) fn accept(&self) {
        let mut state = self.state.lock();
        state.changes += 1;
        self.changed.notify_all();
    }

    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    pub(super) fn frontend(&self) -> Option<Arc<dyn CharFrontend>> {
        self.state.lock().frontend.clone()
    }

    pub(super) fn event(&self, event: CharEvent) {
        if let Some(frontend) = self.frontend() {
            frontend.event(event);
        }
    }

    pub(super) fn writable(&self) {
        if let Some(frontend) = self.frontend() {
            frontend.writable();
        }
    }

    /// Waits until the frontend can take input; how much, or `None` at the end.
    pub(super) fn wait_receivable(&self) -> Option<usize> {
        loop {
            let (frontend, changes) = {
                let state = self.state.lock();
                if state.ended {
                    return None;
                }
                (state.frontend.clone(), state.changes)
            };
            let room = frontend.map_or(0, |frontend| frontend.receivable());
            if room > 0 {
                return Some(room);
            }
            let mut state = self.state.lock();
            while state.changes == changes && !state.ended {
                self.changed.wait(&mut state);
            }
        }
    }

    /// Delivers all of `data`, as fast as the frontend takes it; false if the end came first.
    pub(super) fn deliver(&self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let Some(room) = self.wait_receivable() else { return false };
            let (now, later) = data.split_at(room.min(data.len()));
            if let Some(frontend) = self.frontend() {
                frontend.receive(now);
            }
            data = later;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_bounded_and_a_refusal_is_reported_once() {
        let queue = ByteQueue::default();
        assert_eq!(queue.push(&vec![1; CAPACITY + 5]), CAPACITY);
        assert_eq!(queue.push(b"x"), 0);
        let (bytes, refused) = queue.take().unwrap();
        assert_eq!((bytes.len(), refused), (CAPACITY, true));
        assert_eq!(queue.push(b"x"), 1);
        assert_eq!(queue.take().unwrap(), (b"x".to_vec(), false));
        queue.close();
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn flush_gives_up_at_its_limit() {
        let queue = ByteQueue::default();
        queue.push(b"stuck");
        queue.flush(Duration::from_millis(5));
        assert!(!queue.clear());
        queue.flush(Duration::from_secs(60));
    }
}
