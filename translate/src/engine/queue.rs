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
///
/// A block that gets hotter while it waits is asked for again, each time that it was executed twice as often
/// ([`Translation::count_execution`]); the earlier request is found to be served already when its turn comes.
#[derive(Default)]
pub(super) struct Queue {
    // Lock order: alone.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Requests by the binary logarithm of the number of executions when they were made.
    levels: [Vec<Request>; 32],
    closed: bool,
}

impl Queue {
    pub(super) fn push(&self, request: Request) {
        let level = request.head.executions().max(1).ilog2();
        self.state.lock().levels[level as usize].push(request);
        self.changed.notify_one();
    }

    /// Waits for a request and takes one of the hottest, of those the latest; `None` once the queue is closed.
    pub(super) fn take(&self) -> Option<Request> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(request) = state.levels.iter_mut().rev().find_map(Vec::pop) {
                return Some(request);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Ends the compile thread, with its present request.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.levels = Default::default();
        self.changed.notify_all();
    }
}
