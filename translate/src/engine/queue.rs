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
///
/// All are of one generation. Many never get their turn, and would keep the memory of a generation that has ended.
#[derive(Default)]
pub(super) struct Queue {
    // Lock order: behind that of the translator's generation.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Requests by the binary logarithm of the number of executions when they were made.
    levels: [Vec<Request>; 32],
    /// Number of the generation that they are of.
    generation: u64,
    closed: bool,
}

impl Queue {
    /// Adds a request, unless its generation has ended.
    pub(super) fn push(&self, request: Request) {
        let level = request.head.executions().max(1).ilog2();
        let mut state = self.state.lock();
        if request.generation.number == state.generation {
            state.levels[level as usize].push(request);
            self.changed.notify_one();
        }
    }

    /// Forgets all requests, since the generation with this number begins.
    pub(super) fn begin(&self, generation: u64) {
        let old = {
            let mut state = self.state.lock();
            state.generation = generation;
            std::mem::take(&mut state.levels)
        };
        // Outside the lock, as it may be the last to hold what they are of.
        drop(old);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::translations::{Key, Tiers, Translator};
    use crate::riscv64::Riscv64;

    #[test]
    fn an_ended_generation_is_not_kept() {
        let generation = || Translator::<Riscv64>::new(Tiers::InterpreterOnly, None).generation();
        let request = |generation: &Arc<Generation>| {
            let key = Key { start: 0, physical: 0, next_page: None, flags: 0 };
            Request { generation: generation.clone(), head: Translation::for_tests(generation, key) }
        };
        let (queue, first) = (Queue::default(), generation());
        queue.push(request(&first));
        assert_eq!(Arc::strong_count(&first), 2);
        queue.begin(first.number + 1);
        assert_eq!(Arc::strong_count(&first), 1);
        // A processor may not know yet that it has ended.
        queue.push(request(&first));
        assert_eq!(Arc::strong_count(&first), 1);
        queue.begin(first.number);
        queue.push(request(&first));
        assert!(queue.take().is_some());
    }
}
