//! Virtio console with one port.
//!
//! VIRTIO 1.2, section 5.3, without the multiport feature: queue 0 brings input, queue 1 takes output.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use host::chardev::{CharBackend, CharFrontend, WeakFrontend};
use parking_lot::Mutex;

use super::VirtioDevice;
use super::queues::{Chain, Outcome, Queues};
use crate::worker::Worker;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Feature bit: single characters can be written to the configuration space.
const F_EMERG_WRITE: u64 = 1 << 2;
/// Offset of the emergency write field.
const EMERG_WRITE: usize = 8;

/// Most input taken from the host at once, bytes.
const MOST_INPUT: usize = 4096;
/// Output is copied through a buffer of this size.
const BUFFER: usize = 16 * 1024;
/// Most output taken from a buffer before others get their turn, bytes: a driver can offer gigabytes at once.
const MOST_OUTPUT: usize = 1024 * 1024;

/// A console on a character device of the host.
pub struct VirtioConsole {
    shared: Arc<Shared>,
    /// Takes output, so that no vCPU waits for its copying.
    worker: Worker,
}

struct Shared {
    backend: Arc<dyn CharBackend>,
    queues: OnceLock<Arc<Queues>>,
    // Lock order: after a queue's.
    progress: Mutex<Progress>,
    /// The host takes no more output for now.
    refused: AtomicBool,
}

#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
struct Progress {
    /// How much of the next output buffer the host has taken.
    sent: usize,
    /// Input that the driver has given no buffers for.
    waiting: Vec<u8>,
}

impl VirtioConsole {
    /// A console on `backend`.
    pub fn new(backend: Arc<dyn CharBackend>) -> std::io::Result<Arc<VirtioConsole>> {
        let shared = Arc::new(Shared {
            backend: backend.clone(),
            queues: OnceLock::new(),
            progress: Mutex::default(),
            refused: AtomicBool::new(false),
        });
        let work = shared.clone();
        let worker = Worker::start("virtio-console", move || work.send_all())?;
        let console = Arc::new(VirtioConsole { shared, worker });
        backend.connect(Arc::new(WeakFrontend(Arc::downgrade(&console))));
        Ok(console)
    }
}

impl Shared {
    /// Gives one output buffer to the host, from where an earlier try ended.
    fn send(&self, queues: &Queues, chain: &Chain<'_>) -> Outcome {
        let Ok(mut reader) = chain.clone().reader(queues.memory()) else { return Outcome::Broken };
        let mut progress = self.progress.lock();
        if progress.sent > 0 {
            let Ok(rest) = reader.split_at(progress.sent.min(reader.available_bytes())) else {
                return Outcome::Broken;
            };
            reader = rest;
        }
        let mut buffer = vec![0; reader.available_bytes().min(BUFFER)];
        let mut turn = 0;
        while reader.available_bytes() > 0 {
            if turn >= MOST_OUTPUT {
                return Outcome::Later;
            }
            let length = reader.available_bytes().min(BUFFER);
            let part = &mut buffer[..length];
            if reader.read_exact(part).is_err() {
                return Outcome::Broken;
            }
            let taken = self.backend.write(part).min(length);
            progress.sent = progress.sent.saturating_add(taken);
            turn += taken;
            if taken < length {
                self.refused.store(true, Ordering::Release);
                return Outcome::Later;
            }
        }
        progress.sent = 0;
        Outcome::Used(0)
    }

    /// Gives output to the host; true if there is more that it may take.
    fn send_all(&self) -> bool {
        let Some(queues) = self.queues.get() else { return false };
        self.refused.store(false, Ordering::Release);
        let more = queues.process(TRANSMIT, |chain| self.send(queues, chain));
        more && !queues.is_paused() && !self.refused.load(Ordering::Acquire)
    }

    /// Moves waiting input into the driver's buffers.
    fn fill(&self) {
        let Some(queues) = self.queues.get() else { return };
        queues.process(RECEIVE, |chain| {
            let mut progress = self.progress.lock();
            if progress.waiting.is_empty() {
                return Outcome::Later;
            }
            let Ok(mut writer) = chain.clone().writer(queues.memory()) else { return Outcome::Broken };
            let length = writer.available_bytes().min(progress.waiting.len());
            if writer.write_all(&progress.waiting[..length]).is_err() {
                return Outcome::Broken;
            }
            progress.waiting.drain(..length);
            Outcome::Used(length as u32)
        });
    }
}

impl CharFrontend for VirtioConsole {
    fn receivable(&self) -> usize {
        if !self.shared.queues.get().is_some_and(|queues| queues.is_active() && !queues.is_paused()) {
            return 0;
        }
        MOST_INPUT.saturating_sub(self.shared.progress.lock().waiting.len())
    }
    fn receive(&self, data: &[u8]) {
        self.shared.progress.lock().waiting.extend(data);
        self.shared.fill();
    }
    fn writable(&self) {
        self.worker.kick();
    }
}

impl VirtioDevice for VirtioConsole {
    fn device_id(&self) -> u32 {
        3
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[128, 128]
    }
    fn features(&self) -> u64 {
        F_EMERG_WRITE
    }
    fn config_length(&self) -> usize {
        12
    }
    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; self.config_length()];
        config[4..8].copy_from_slice(&1u32.to_le_bytes());
        config
    }
    fn write_config(&self, offset: usize, data: &[u8]) {
        if offset == EMERG_WRITE
            && let Some(byte) = data.first()
        {
            // An emergency has no time to wait for room.
            self.shared.backend.write(&[*byte]);
        }
    }
    fn attach(&self, queues: Arc<Queues>) {
        // A transport attaches a device once.
        let _ = self.shared.queues.set(queues);
    }
    fn ready(&self) {
        self.shared.backend.accept_input();
        self.worker.kick();
    }
    fn notify(&self, queue: u16) {
        if queue == TRANSMIT {
            self.worker.kick();
        } else {
            self.shared.fill();
            self.shared.backend.accept_input();
        }
    }
    fn reset(&self) {
        *self.shared.progress.lock() = Progress::default();
    }
    fn pause(&self) {
        self.worker.pause();
    }
    fn resume(&self) {
        self.worker.kick();
        self.worker.resume();
        self.shared.fill();
        self.shared.backend.accept_input();
    }
    fn save(&self) -> serde_json::Value {
        crate::device::state_value(&*self.shared.progress.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), crate::device::StateError> {
        let new: Progress = crate::device::parse_state("virtio-console", state)?;
        if new.waiting.len() > MOST_INPUT {
            return Err(crate::device::impossible("virtio-console", "more input waits than it takes from the host"));
        }
        *self.shared.progress.lock() = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Driver, TestBackend, wait_for};

    #[test]
    fn output_goes_to_the_host_as_fast_as_it_takes_it() {
        let backend = TestBackend::new(7);
        let console = VirtioConsole::new(backend.clone()).unwrap();
        let mut driver = Driver::new(console.clone());
        driver.start();
        let first = driver.add(1, &[b"hello ", b"world"], &[]);
        driver.notify(1);
        wait_for("the first output", || backend.written() == b"hello w");
        assert!(driver.used(1).is_empty());
        backend.set_room(1);
        console.writable();
        wait_for("one more byte", || backend.written() == b"hello wo");
        backend.set_room(100);
        console.writable();
        wait_for("the rest", || backend.written() == b"hello world");
        assert_eq!(driver.wait_used(1), [(first.head, 0)]);
        wait_for("the interrupt", || driver.interrupted());
    }

    #[test]
    fn input_waits_for_buffers_and_is_bounded() {
        let console = VirtioConsole::new(TestBackend::new(0)).unwrap();
        let mut driver = Driver::new(console.clone());
        assert_eq!(console.receivable(), 0);
        driver.start();
        assert_eq!(console.receivable(), 4096);
        console.receive(b"typed");
        assert_eq!(console.receivable(), 4091);
        let chain = driver.add(0, &[], &[3]);
        driver.notify(0);
        assert_eq!(driver.used(0), [(chain.head, 3)]);
        assert_eq!(driver.read(chain.writable[0], 3), b"typ");
        let chain = driver.add(0, &[], &[64]);
        driver.notify(0);
        assert_eq!(driver.used(0), [(chain.head, 2)]);
        assert_eq!(console.receivable(), 4096);
    }

    #[test]
    fn an_emergency_write_needs_no_driver() {
        let backend = TestBackend::new(10);
        let console = VirtioConsole::new(backend.clone()).unwrap();
        let driver = Driver::new(console);
        driver.write_config(8, 4, u64::from(b'!'));
        assert_eq!(backend.written(), b"!");
    }
}
