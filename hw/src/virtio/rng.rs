//! Virtio entropy device.
//!
//! VIRTIO 1.2, section 5.4: one queue of buffers to fill with random bytes.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use super::VirtioDevice;
use super::queues::{Chain, Outcome, Queues};

/// Most bytes that one buffer is given; the driver asks again for more.
const MOST: usize = 64 * 1024;

/// An entropy device on the host's random numbers.
pub struct VirtioRng {
    queues: OnceLock<Arc<Queues>>,
}

impl VirtioRng {
    /// An entropy device.
    pub fn new() -> Arc<VirtioRng> {
        Arc::new(VirtioRng { queues: OnceLock::new() })
    }
}

fn fill(queues: &Queues, chain: &Chain<'_>) -> Outcome {
    let Ok(mut writer) = chain.clone().writer(queues.memory()) else { return Outcome::Broken };
    let mut bytes = vec![0; writer.available_bytes().min(MOST)];
    if let Err(error) = host::random::fill(&mut bytes) {
        tracing::warn!("virtio-rng: the host gives no random numbers: {error}");
        return Outcome::Used(0);
    }
    match writer.write_all(&bytes) {
        Ok(()) => Outcome::Used(bytes.len() as u32),
        Err(_) => Outcome::Broken,
    }
}

impl VirtioDevice for VirtioRng {
    fn device_id(&self) -> u32 {
        4
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[256]
    }
    fn features(&self) -> u64 {
        0
    }
    fn config_length(&self) -> usize {
        0
    }
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }
    fn attach(&self, queues: Arc<Queues>) {
        // A transport attaches a device once.
        let _ = self.queues.set(queues);
    }
    fn notify(&self, queue: u16) {
        if let Some(queues) = self.queues.get() {
            queues.process(queue, |chain| fill(queues, chain));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Driver;

    #[test]
    fn buffers_come_back_full_of_different_bytes_and_with_an_interrupt() {
        let mut driver = Driver::new(VirtioRng::new());
        driver.start();
        let chain = driver.add(0, &[], &[16, 16]);
        driver.notify(0);
        assert_eq!(driver.used(0), [(chain.head, 32)]);
        assert!(driver.interrupted());
        let (first, second) = (driver.read(chain.writable[0], 16), driver.read(chain.writable[1], 16));
        assert_ne!(first, second);
        assert_ne!(first, [0; 16]);
    }

    #[test]
    fn a_buffer_outside_ram_makes_the_device_ask_for_a_reset() {
        let mut driver = Driver::new(VirtioRng::new());
        driver.start();
        driver.add_raw(0, u64::MAX - 5, 100, 2);
        driver.notify(0);
        assert!(driver.needs_reset());
        driver.start();
        assert!(!driver.needs_reset());
        driver.add(0, &[], &[4]);
        driver.notify(0);
        assert_eq!(driver.used(0).len(), 1);
    }
}
