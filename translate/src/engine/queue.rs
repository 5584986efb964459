//! What waits to be compiled, the hottest first.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::translations::{Generation, Translation};

/// A hot block, the head of a region to be.
pub(super) struct Request {
    pub(super) generation: Arc<Generation>,
    pub(super) head: Arc<Translation>,
}

/// Requests of the processors to the compile thread.
#[derive(Default)]
pub(super) struct Queue {
    // Lock order: alone.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    closed: bool,
}

impl Queue {
    pub(super) fn push(&self, request: Request) {
        self.state.lock().requests.push(request);
        self.changed.notify_one();
    }

    /// Waits for a request and takes that of the block which was executed most often by now; `None` once the queue is closed.
    pub(super) fn take(&self) -> Option<Request> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            let hottest = (0..state.requests.len()).max_by_key(|position| state.requests[*position].head.executions());
            match hottest {
                Some(position) => return Some(state.requests.swap_remove(position)),
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Ends the compile thread, with its present request.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.requests.clear();
        self.changed.notify_all();
    }
}
