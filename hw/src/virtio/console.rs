//! Virtio console with one port.
//!
//! VIRTIO 1.2, section 5.3, without the multiport feature: queue 0 brings input, queue 1 takes output.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use host::chardev::{CharBackend, CharFrontend, WeakFrontend};

use super::VirtioDevice;
use super::queues::{Chain, Outcome, Queues};

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

/// A console on a character device of the host.
pub struct VirtioConsole {
    backend: Arc<dyn CharBackend>,
    queues: OnceLock<Arc<Queues>>,
    // Lock order: after a queue's.
    progress: parking_lot::Mutex<Progress>,
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
    pub fn new(backend: Arc<dyn CharBackend>) -> Arc<VirtioConsole> {
        let console = Arc::new(VirtioConsole {
            backend: backend.clone(),
            queues: OnceLock::new(),
            progress: parking_lot::Mutex::default(),
        });
        backend.connect(Arc::new(WeakFrontend(Arc::downgrade(&console))));
        console
    }

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
        while reader.available_bytes() > 0 {
            let length = reader.available_bytes().min(BUFFER);
            let part = &mut buffer[..length];
            if reader.read_exact(part).is_err() {
                return Outcome::Broken;
            }
            let taken = self.backend.write(part).min(length);
            progress.sent = progress.sent.saturating_add(taken);
            if taken < length {
                return Outcome::Later;
            }
        }
        progress.sent = 0;
        Outcome::Used(0)
    }

    fn send_all(&self) {
        if let Some(queues) = self.queues.get() {
            queues.process(TRANSMIT, |chain| self.send(queues, chain));
        }
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
        if !self.queues.get().is_some_and(|queues| queues.is_active()) {
            return 0;
        }
        MOST_INPUT.saturating_sub(self.progress.lock().waiting.len())
    }
    fn receive(&self, data: &[u8]) {
        self.progress.lock().waiting.extend(data);
        self.fill();
    }
    fn writable(&self) {
        self.send_all();
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
            self.backend.write(&[*byte]);
        }
    }
    fn attach(&self, queues: Arc<Queues>) {
        // A transport attaches a device once.
        let _ = self.queues.set(queues);
    }
    fn ready(&self) {
        self.backend.accept_input();
        self.send_all();
    }
    fn notify(&self, queue: u16) {
        if queue == TRANSMIT {
            self.send_all();
        } else {
            self.fill();
            self.backend.accept_input();
        }
    }
    fn reset(&self) {
        *self.progress.lock() = Progress::default();
    }
    fn resume(&self) {
        self.send_all();
        self.fill();
    }
    fn save(&self) -> serde_json::Value {
        crate::device::state_value(&*self.progress.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), crate::device::StateError> {
        let new: Progress = crate::device::parse_state("virtio-console", state)?;
        if new.waiting.len() > MOST_INPUT {
            return Err(crate::device::impossible("virtio-console", "more input waits than it takes from the host"));
        }
        *self.progress.lock() = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Driver, TestBackend};

    #[test]
    fn output_goes_to_the_host_as_fast_as_it_takes_it() {
        let backend = TestBackend::new(7);
        let console = VirtioConsole::new(backend.clone());
        let mut driver = Driver::new(console.clone());
        driver.start();
        let first = driver.add(1, &[b"hello ", b"world"], &[]);
        driver.notify(1);
        assert_eq!(backend.written(), b"hello w");
        assert!(driver.used(1).is_empty());
        backend.set_room(1);
        console.writable();
        backend.set_room(100);
        console.writable();
        assert_eq!(backend.written(), b"hello world");
        assert_eq!(driver.used(1), [(first.head, 0)]);
        assert!(driver.interrupted());
    }

    #[test]
    fn input_waits_for_buffers_and_is_bounded() {
        let console = VirtioConsole::new(TestBackend::new(0));
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
        let console = VirtioConsole::new(backend.clone());
        let driver = Driver::new(console);
        driver.write_config(8, 4, u64::from(b'!'));
        assert_eq!(backend.written(), b"!");
    }
}
