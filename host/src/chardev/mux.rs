//! Several guest ends on one host end, with escapes that the user types.
//!
//! Output of all ports goes to the host; input goes to the port that has the focus. Ctrl-A begins an escape: `x` ends
//! the emulator, `c` gives the focus to the next port, `b` sends a break, `h` or `?` shows the escapes, and a second
//! Ctrl-A is one for the guest. Escapes work also when the focused port takes no input.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::queue::{ByteQueue, Input};
use super::{CharBackend, CharEvent, CharFrontend, Error, WeakFrontend};

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// How much input is taken from the host at once, bytes.
const MOST_AT_ONCE: usize = 4096;

const HELP: &[u8] = b"\r\nC-a h    print this help\r\nC-a x    exit emulator\r\nC-a b    send break\r\n\
    C-a c    switch between console and monitor\r\nC-a C-a  sends C-a\r\n";

/// Joins several character devices on one.
pub struct Mux {
    backend: Arc<dyn CharBackend>,
    quit: Box<dyn Fn() + Send + Sync>,
    // Lock order: alone; neither frontends nor the backend are called while it is held.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ports: Vec<Arc<Port>>,
    focus: usize,
    /// The last byte was a Ctrl-A.
    escaped: bool,
}

/// One of the devices that were joined.
#[derive(Default)]
struct Port {
    /// What was typed for it. When it is full, further input is dropped: nobody types that much.
    typed: ByteQueue,
    input: Input,
}

impl Mux {
    /// A mux on `backend`. `quit` is called on a thread of the backend when the user types Ctrl-A x.
    pub fn new(backend: Arc<dyn CharBackend>, quit: impl Fn() + Send + Sync + 'static) -> Arc<Mux> {
        let mux = Arc::new(Mux { backend: backend.clone(), quit: Box::new(quit), state: Mutex::default() });
        backend.connect(Arc::new(WeakFrontend(Arc::downgrade(&mux))));
        mux
    }

    /// Adds a port; the first has the focus.
    pub fn port(self: &Arc<Mux>) -> Result<Arc<dyn CharBackend>, Error> {
        let port = Arc::new(Port::default());
        let thread = port.clone();
        std::thread::Builder::new()
            .name("mux input".into())
            .spawn(move || {
                while let Some((bytes, _)) = thread.typed.take() {
                    if !thread.input.deliver(&bytes) {
                        break;
                    }
                }
            })
            .map_err(|source| Error::Open { what: "mux".into(), source })?;
        self.state.lock().ports.push(port.clone());
        Ok(Arc::new(PortHandle { mux: self.clone(), port }))
    }

    fn focused(&self) -> Option<Arc<Port>> {
        let state = self.state.lock();
        state.ports.get(state.focus).cloned()
    }

    fn escape(&self, byte: u8) {
        match byte {
            b'x' => {
                self.backend.write(b"\r\nTerminated\r\n");
                (self.quit)();
            }
            b'c' => {
                let (old, new) = {
                    let mut state = self.state.lock();
                    let old = state.focus;
                    state.focus = (old + 1) % state.ports.len().max(1);
                    (state.ports.get(old).cloned(), state.ports.get(state.focus).cloned())
                };
                for (port, event) in [(old, CharEvent::FocusLost), (new, CharEvent::FocusGained)] {
                    if let Some(port) = port {
                        port.input.event(event);
                    }
                }
            }
            b'b' => {
                if let Some(port) = self.focused() {
                    port.input.event(CharEvent::Break);
                }
            }
            b'h' | b'?' => {
                self.backend.write(HELP);
            }
            ESCAPE => self.typed(ESCAPE),
            // Others are swallowed.
            _ => {}
        }
    }

    fn typed(&self, byte: u8) {
        if let Some(port) = self.focused() {
            port.typed.push(&[byte]);
        }
    }
}

impl CharFrontend for Mux {
    fn receivable(&self) -> usize {
        // Always something, so that an escape gets through.
        MOST_AT_ONCE
    }
    fn receive(&self, data: &[u8]) {
        for byte in data {
            let escaped = std::mem::replace(&mut self.state.lock().escaped, false);
            if escaped {
                self.escape(*byte);
            } else if *byte == ESCAPE {
                self.state.lock().escaped = true;
            } else {
                self.typed(*byte);
            }
        }
    }
    fn writable(&self) {
        let ports = self.state.lock().ports.clone();
        ports.iter().for_each(|port| port.input.writable());
    }
    fn event(&self, event: CharEvent) {
        let ports = self.state.lock().ports.clone();
        ports.iter().for_each(|port| port.input.event(event));
    }
}

/// What a port's user holds; it keeps the mux alive.
struct PortHandle {
    mux: Arc<Mux>,
    port: Arc<Port>,
}

impl Drop for PortHandle {
    fn drop(&mut self) {
        self.port.typed.close();
        self.port.input.end();
    }
}

impl CharBackend for PortHandle {
    fn description(&self) -> String {
        format!("mux on {}", self.mux.backend.description())
    }
    fn write(&self, data: &[u8]) -> usize {
        self.mux.backend.write(data)
    }
    fn connect(&self, frontend: Arc<dyn CharFrontend>) {
        self.port.input.connect(frontend);
        if self.is_open() {
            self.port.input.event(CharEvent::Opened);
        }
    }
    fn accept_input(&self) {
        self.port.input.accept();
    }
    fn flush(&self, limit: Duration) {
        self.mux.backend.flush(limit);
    }
    fn is_open(&self) -> bool {
        self.mux.backend.is_open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chardev::NullBackend;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    struct Listener {
        bytes: Mutex<mpsc::Sender<Vec<u8>>>,
        events: Mutex<Vec<CharEvent>>,
        room: AtomicUsize,
    }

    impl CharFrontend for Listener {
        fn receivable(&self) -> usize {
            self.room.load(Ordering::Acquire)
        }
        fn receive(&self, data: &[u8]) {
            self.bytes.lock().send(data.to_vec()).unwrap();
        }
        fn event(&self, event: CharEvent) {
            self.events.lock().push(event);
        }
    }

    fn listen(port: &Arc<dyn CharBackend>, room: usize) -> (Arc<Listener>, mpsc::Receiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::channel();
        let (bytes, events) = (Mutex::new(sender), Mutex::default());
        let listener = Arc::new(Listener { bytes, events, room: AtomicUsize::new(room) });
        port.connect(listener.clone());
        listener.events.lock().clear();
        (listener, receiver)
    }

    #[test]
    fn input_goes_to_the_port_with_the_focus_and_a_doubled_escape_is_one_byte() {
        let mux = Mux::new(Arc::new(NullBackend), || {});
        let (first, second) = (mux.port().unwrap(), mux.port().unwrap());
        let (first_listener, first_bytes) = listen(&first, 1);
        let (second_listener, second_bytes) = listen(&second, 1);
        mux.receive(b"a\x01");
        mux.receive(b"\x01\x01cb\x01b");
        let limit = Duration::from_secs(10);
        assert_eq!(first_bytes.recv_timeout(limit).unwrap(), b"a");
        assert_eq!(first_bytes.recv_timeout(limit).unwrap(), [ESCAPE]);
        assert_eq!(second_bytes.recv_timeout(limit).unwrap(), b"b");
        assert_eq!(*first_listener.events.lock(), [CharEvent::FocusLost]);
        assert_eq!(*second_listener.events.lock(), [CharEvent::FocusGained, CharEvent::Break]);
    }

    #[test]
    fn escapes_work_while_the_port_takes_nothing() {
        let quits = Arc::new(AtomicUsize::new(0));
        let counter = quits.clone();
        let mux = Mux::new(Arc::new(NullBackend), move || {
            counter.fetch_add(1, Ordering::AcqRel);
        });
        let port = mux.port().unwrap();
        let (listener, bytes) = listen(&port, 0);
        mux.receive(&vec![b'.'; 200_000]);
        mux.receive(b"\x01x");
        assert_eq!(quits.load(Ordering::Acquire), 1);
        assert!(bytes.recv_timeout(Duration::from_millis(10)).is_err());
        listener.room.store(usize::MAX, Ordering::Release);
        port.accept_input();
        assert!(!bytes.recv_timeout(Duration::from_secs(10)).unwrap().is_empty());
    }
}
