//! From the machine's events to the clients.

use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;

use hw::vm::{Event, Subscription, Vm};
use parking_lot::Mutex;

use super::Output;
use crate::events;
use crate::json::{self, Format};

struct Listener {
    output: Weak<Output>,
    format: Format,
}

/// Hands each event of a machine to every client that has negotiated.
///
/// The machine calls it before the command that causes an event returns; so the event is in the client's queue before
/// the command's answer.
pub(crate) struct Hub {
    // Lock order: before the lock of an output.
    listeners: Arc<Mutex<Vec<Listener>>>,
    _subscription: Subscription,
}

impl Hub {
    pub(crate) fn new(vm: &Vm) -> Hub {
        let listeners: Arc<Mutex<Vec<Listener>>> = Arc::default();
        let subscription = vm.subscribe({
            let listeners = listeners.clone();
            move |event| broadcast(&listeners, event)
        });
        Hub { listeners, _subscription: subscription }
    }

    /// Lets events come to `output` from now on, as long as it exists.
    pub(crate) fn add(&self, output: &Arc<Output>, format: Format) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|listener| listener.output.strong_count() > 0);
        listeners.push(Listener { output: Arc::downgrade(output), format });
    }
}

fn broadcast(listeners: &Mutex<Vec<Listener>>, event: &Event) {
    let message = events::message(event, SystemTime::now());
    let [line, pretty] = [OnceLock::new(), OnceLock::new()];
    for listener in listeners.lock().iter() {
        let text = if listener.format == Format::Line { &line } else { &pretty };
        let text: &Arc<[u8]> = text.get_or_init(|| json::write(&message, listener.format).into());
        if let Some(output) = listener.output.upgrade() {
            output.push_now(text);
        }
    }
}
