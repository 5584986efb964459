//! A device's own thread, for work that may wait for the host.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// A thread that does a device's work each time it is kicked, and that can be paused.
pub(crate) struct Worker {
    shared: Arc<Shared>,
}

struct Shared {
    // Lock order: alone; the work is done without it.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    kicked: bool,
    paused: bool,
    busy: bool,
    ended: bool,
}

impl Worker {
    /// Starts a thread called `name` that calls `work` after each kick, and again while it returns true.
    pub(crate) fn start(name: &str, work: impl Fn() -> bool + Send + 'static) -> std::io::Result<Worker> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let thread = shared.clone();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            let mut state = thread.state.lock();
            while !state.ended {
                if !state.kicked || state.paused {
                    thread.changed.wait(&mut state);
                    continue;
                }
                state.kicked = false;
                state.busy = true;
                let more = parking_lot::MutexGuard::unlocked(&mut state, &work);
                state.kicked |= more;
                state.busy = false;
                thread.changed.notify_all();
            }
        })?;
        Ok(Worker { shared })
    }

    /// There is work. Never waits.
    pub(crate) fn kick(&self) {
        self.shared.state.lock().kicked = true;
        self.shared.changed.notify_all();
    }

    /// Waits until the present round of work is done, and starts no further one.
    pub(crate) fn pause(&self) {
        let mut state = self.shared.state.lock();
        state.paused = true;
        while state.busy {
            self.shared.changed.wait(&mut state);
        }
    }

    /// Ends a pause.
    pub(crate) fn resume(&self) {
        self.shared.state.lock().paused = false;
        self.shared.changed.notify_all();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.changed.notify_all();
    }
}
