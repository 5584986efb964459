//! The qtest protocol: a client drives a machine's buses, interrupt lines and virtual clock, line by line.
//!
//! QEMU documentation, "QTest Device Emulation Testing Framework". The client's lines are carried out one after the other on a
//! thread of their own, so that a client that asks for much, or does not read, holds up nobody else.

mod base64;
mod commands;

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::{Arc, Weak};
use std::time::Instant;

use host::chardev::{CharBackend, CharEvent, CharFrontend, WeakFrontend};
use parking_lot::{Condvar, Mutex};

use crate::vm::Vm;

/// Longest line that a client may send, bytes.
const LONGEST_LINE: usize = 64 << 20;
/// How much input waits at most, bytes.
const MOST_INPUT: usize = 1 << 16;
/// With so much output waiting for the client no further command is carried out, bytes.
const MOST_OUTPUT: usize = 1 << 20;
/// With so much output waiting for the client interrupts are not told any more, bytes.
const MOST_OUTPUT_WITH_INTERRUPTS: usize = 4 << 20;

/// Where a log of the conversation goes.
pub type Log = Box<dyn Write + Send>;

/// Serves one client; it ends with the last reference to it.
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// Serves the client at the other end of `backend`.
    pub fn start(vm: &Arc<Vm>, backend: Arc<dyn CharBackend>, log: Option<Log>) -> std::io::Result<Server> {
        let shared = Arc::new(Shared {
            backend: backend.clone(),
            input: Mutex::default(),
            input_changed: Condvar::new(),
            output: Mutex::new(Output { bytes: VecDeque::new(), log, start: Instant::now() }),
            output_changed: Condvar::new(),
            levels: Mutex::default(),
        });
        let (thread, vm) = (shared.clone(), Arc::downgrade(vm));
        std::thread::Builder::new().name("qtest".into()).spawn(move || serve(&thread, &vm))?;
        backend.connect(Arc::new(WeakFrontend(Arc::downgrade(&shared))));
        Ok(Server { shared })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.input.lock().ended = true;
        self.shared.input_changed.notify_all();
        self.shared.output_changed.notify_all();
    }
}

struct Shared {
    backend: Arc<dyn CharBackend>,
    // Lock order of these three: each alone. Devices call with their locks held, so nothing here calls a device under one.
    input: Mutex<Input>,
    input_changed: Condvar,
    output: Mutex<Output>,
    output_changed: Condvar,
    /// Levels of the lines that the client listens to.
    levels: Mutex<BTreeMap<u32, bool>>,
}

#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    ended: bool,
}

struct Output {
    bytes: VecDeque<u8>,
    log: Option<Log>,
    start: Instant,
}

impl Output {
    fn log(&mut self, kind: char, line: &str) {
        let passed = self.start.elapsed();
        if let Some(log) = &mut self.log {
            // A log that cannot be written to is no reason to stop.
            let _ = writeln!(log, "[{kind} +{}.{:06}] {line}", passed.as_secs(), passed.subsec_micros());
            let _ = log.flush();
        }
    }
}

impl CharFrontend for Shared {
    fn receivable(&self) -> usize {
        MOST_INPUT.saturating_sub(self.input.lock().bytes.len())
    }
    fn receive(&self, data: &[u8]) {
        self.input.lock().bytes.extend(data);
        self.input_changed.notify_all();
    }
    fn writable(&self) {
        self.push_output(&mut self.output.lock());
    }
    fn event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened => self.output.lock().log('I', "OPENED"),
            CharEvent::Closed => {
                // For the next client; that one's first commands may come before this is told that it is there.
                self.levels.lock().clear();
                let mut output = self.output.lock();
                output.bytes.clear();
                output.log('I', "CLOSED");
                self.output_changed.notify_all();
            }
            _ => {}
        }
    }
}

impl Shared {
    /// Hands waiting output to the backend.
    fn push_output(&self, output: &mut Output) {
        loop {
            let (part, _) = output.bytes.as_slices();
            if part.is_empty() {
                break;
            }
            let taken = self.backend.write(part);
            output.bytes.drain(..taken);
            if taken == 0 {
                break;
            }
        }
        self.output_changed.notify_all();
    }

    /// Sends a line.
    fn send(&self, line: &str) {
        let mut output = self.output.lock();
        output.log('S', line);
        output.bytes.extend(line.bytes());
        output.bytes.push_back(b'\n');
        self.push_output(&mut output);
    }

    /// Tells of a change of an interrupt line that the client listens to.
    fn interrupt(&self, number: u32, level: bool) {
        let before = self.levels.lock().insert(number, level).unwrap_or(false);
        if before != level && self.output.lock().bytes.len() < MOST_OUTPUT_WITH_INTERRUPTS {
            self.send(&format!("IRQ {} {number}", if level { "raise" } else { "lower" }));
        }
    }

    fn has_ended(&self) -> bool {
        self.input.lock().ended
    }

    /// Waits until the client has read enough for another answer; false if there is to be none.
    fn wait_for_room(&self) -> bool {
        let mut output = self.output.lock();
        while output.bytes.len() >= MOST_OUTPUT {
            let ended = parking_lot::MutexGuard::unlocked(&mut output, || self.has_ended());
            if ended {
                return false;
            }
            self.output_changed.wait_for(&mut output, std::time::Duration::from_millis(100));
        }
        true
    }
}

/// Takes lines out of what came in.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    /// The present line is longer than any may be; its rest is dropped.
    too_long: bool,
}

impl Lines {
    /// Calls `take` with each line that `data` ends: its text, or nothing for one that was too long.
    fn feed(&mut self, data: &[u8], mut take: impl FnMut(Option<&str>) -> bool) -> bool {
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            if self.partial.len() + text.len() > LONGEST_LINE {
                self.too_long = true;
                self.partial.clear();
            } else if !self.too_long {
                self.partial.extend(text);
            }
            if ends {
                let line = std::mem::take(&mut self.partial);
                let line = String::from_utf8_lossy(&line);
                let too_long = std::mem::take(&mut self.too_long);
                if !take((!too_long).then_some(line.trim_end_matches('\r'))) {
                    return false;
                }
            }
        }
        true
    }
}

/// Carries out the client's commands until the server or the machine ends.
fn serve(shared: &Arc<Shared>, vm: &Weak<Vm>) {
    let mut lines = Lines::default();
    let mut client = commands::Client::new(shared.clone());
    loop {
        let data = {
            let mut input = shared.input.lock();
            while input.bytes.is_empty() && !input.ended {
                shared.input_changed.wait(&mut input);
            }
            if input.ended {
                return;
            }
            std::mem::take(&mut input.bytes)
        };
        shared.backend.accept_input();
        let goes_on = lines.feed(&data, |line| {
            let Some(vm) = vm.upgrade() else { return false };
            if let Some(line) = line {
                shared.output.lock().log('R', line);
            }
            let answer = match line {
                None => Some(format!("FAIL a line has at most {LONGEST_LINE} bytes")),
                Some(line) => client.execute(&vm, line),
            };
            if let Some(answer) = answer {
                shared.send(&answer);
            }
            shared.wait_for_room()
        });
        if !goes_on {
            return;
        }
    }
}

/// What an interrupt of a device at the client's choice is told to.
fn listener(shared: &Arc<Shared>) -> impl Fn(u32, bool) + Send + Sync + 'static {
    let shared: Weak<Shared> = Arc::downgrade(shared);
    move |number, level| {
        if let Some(shared) = shared.upgrade() {
            shared.interrupt(number, level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_any_parts_and_too_long_ones_are_told_and_dropped() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        let mut feed = |data: &[u8]| {
            lines.feed(data, |line| {
                seen.push(line.map(str::to_owned));
                true
            })
        };
        for part in [&b"inb 0x"[..], b"60\r\nout", b"b 1 2\n\n"] {
            feed(part);
        }
        let chunk = vec![b'a'; 1 << 20];
        for _ in 0..=LONGEST_LINE >> 20 {
            feed(&chunk);
        }
        feed(b"tail\nendianness\n");
        let expected = [Some("inb 0x60"), Some("outb 1 2"), Some(""), None, Some("endianness")];
        assert_eq!(seen, expected.map(|line| line.map(str::to_owned)));
    }
}
