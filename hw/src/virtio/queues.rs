//! The queues of a virtio device, as the device sees them.
//!
//! VIRTIO 1.2, sections 2.6 and 2.7 (split virtqueues).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use accel::memory::GuestMemory;
use parking_lot::{Condvar, Mutex};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::F_EVENT_IDX;
pub use super::buffers::{Buffers, Memory};

/// A chain of descriptors that the driver made available.
pub type Chain<'a> = DescriptorChain<&'a GuestMemory>;

/// How a device's transport tells the driver something.
pub trait VirtioInterrupt: Send + Sync {
    /// Buffers of `queue` were used.
    fn queue(&self, queue: u16);
    /// The configuration space or the device status changed.
    fn config(&self);
}

/// What became of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device is done with it and wrote so many bytes.
    Used(u32),
    /// The device wants to see it again later, and no further one now.
    Later,
    /// The chain breaks the rules; the device stops until it is reset.
    Broken,
}

/// The queues of one device.
pub struct Queues {
    memory: Arc<GuestMemory>,
    // Lock order: one at a time; after a transport's registers, before interrupt controllers'.
    queues: Vec<Mutex<Queue>>,
    interrupt: Arc<dyn VirtioInterrupt>,
    /// Negotiated features; 0 until the driver is ready.
    features: AtomicU64,
    /// The driver is ready (DRIVER_OK) and the device is not broken.
    active: AtomicBool,
    broken: AtomicBool,
    /// No chain is begun: the machine stands still.
    paused: AtomicBool,
    /// How many chains were taken and not given back.
    // Lock order: after a queue.
    taken: Mutex<usize>,
    all_given_back: Condvar,
}

/// What [`Queues::hold`] gives.
pub struct Held<'a>(&'a Queues);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.count_given_back();
    }
}

impl Queues {
    pub(super) fn new(memory: Arc<GuestMemory>, sizes: &[u16], interrupt: Arc<dyn VirtioInterrupt>) -> Queues {
        // Sizes are constants of the devices; one that the crate refuses would leave the queue out.
        let queues = sizes.iter().filter_map(|size| Queue::new(*size).ok()).map(Mutex::new).collect();
        Queues {
            memory,
            queues,
            interrupt,
            features: AtomicU64::new(0),
            active: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            taken: Mutex::new(0),
            all_given_back: Condvar::new(),
        }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The guest's memory, to be kept.
    pub fn shared_memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The features that device and driver agreed on; 0 before.
    pub fn features(&self) -> u64 {
        self.features.load(Ordering::Acquire)
    }

    /// True while the driver has the device set up.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// True if the driver broke the rules and must reset the device (DEVICE_NEEDS_RESET).
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(super) fn queue(&self, index: u16) -> Option<&Mutex<Queue>> {
        self.queues.get(usize::from(index))
    }

    pub(super) fn all(&self) -> &[Mutex<Queue>] {
        &self.queues
    }

    pub(super) fn set_active(&self, features: u64, active: bool) {
        self.features.store(features, Ordering::Release);
        self.active.store(active, Ordering::Release);
    }

    pub(super) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Release);
    }

    /// Lets no further chain be begun, and waits for those that were.
    pub(super) fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        for queue in &self.queues {
            drop(queue.lock());
        }
        self.wait_for_taken();
    }

    /// Waits until all chains that were taken are given back. No further ones are taken: the device is paused or not active.
    pub(super) fn wait_for_taken(&self) {
        let mut taken = self.taken.lock();
        while *taken > 0 {
            self.all_given_back.wait(&mut taken);
        }
    }

    /// Ends a [`Queues::pause`]. The device then looks at its queues again.
    pub(super) fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }

    /// True while the machine stands still.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config_changed(&self) {
        if self.is_active() {
            self.interrupt.config();
        }
    }

    /// Stops the device until the driver resets it.
    pub fn fail(&self, reason: &str) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            tracing::warn!("a virtio device waits for a reset: {reason}");
        }
        self.active.store(false, Ordering::Release);
        self.interrupt.config();
    }

    /// Hands available chains of queue `index` to `handle`, one after the other, and gives them back as used; at most
    /// as many as the queue is long, so that a driver that adds them as fast as they are used does not hold the
    /// caller for ever. Returns true if there may be more. The queue is locked while a chain is handled: a reset of
    /// the device waits for it.
    pub fn process(&self, index: u16, mut handle: impl FnMut(&Chain<'_>) -> Outcome) -> bool {
        let Some(queue) = self.queue(index) else { return false };
        let mut used_any = false;
        let mut more = true;
        let limit = queue.lock().size();
        for _ in 0..limit {
            if !self.is_active() {
                more = false;
                break;
            }
            // Locked anew for each chain, so that others get their turn.
            let mut queue = queue.lock();
            if self.is_paused() {
                break;
            }
            if !queue.ready() {
                more = false;
                break;
            }
            let chain = match queue.iter(&*self.memory) {
                Ok(mut available) => available.next(),
                Err(error) => {
                    drop(queue);
                    self.fail(&format!("queue {index}: {error}"));
                    return false;
                }
            };
            let Some(chain) = chain else {
                // Ask to be notified again, and look once more for what came in between.
                more = queue.enable_notification(&*self.memory).unwrap_or(false);
                if more {
                    continue;
                }
                break;
            };
            // Section 2.7.5.3.1: no chain is longer than the queue, tables of descriptors included.
            let longest = usize::from(queue.size());
            let outcome = if chain.clone().nth(longest).is_some() { Outcome::Broken } else { handle(&chain) };
            match outcome {
                Outcome::Used(length) => {
                    if let Err(error) = queue.add_used(&*self.memory, chain.head_index(), length) {
                        drop(queue);
                        self.fail(&format!("queue {index}: {error}"));
                        return false;
                    }
                    used_any = true;
                }
                Outcome::Later => {
                    queue.go_to_previous_position();
                    more = true;
                    break;
                }
                Outcome::Broken => {
                    drop(queue);
                    self.fail(&format!("queue {index}: a descriptor chain breaks the device's rules"));
                    return false;
                }
            }
        }
        if used_any {
            let wanted = self.wants_interrupt(&mut queue.lock());
            if wanted {
                self.interrupt.queue(index);
            }
        }
        more
    }

    /// Takes the next available chain of queue `index`, for work that takes its time; [`Queues::give_back`] must follow. `None`: there is
    /// none, and the driver notifies the device of further ones; or as many are taken as the queue has, and the device looks again when
    /// it has given one back.
    pub fn take(&self, index: u16) -> Option<Buffers> {
        let mut queue = self.queue(index)?.lock();
        loop {
            if !self.is_active() || self.is_paused() || !queue.ready() {
                return None;
            }
            // A driver may make chains available again that it has not got back, without end.
            if *self.taken.lock() >= usize::from(queue.size()) {
                return None;
            }
            let chain = match queue.iter(&*self.memory) {
                Ok(mut available) => available.next(),
                Err(error) => {
                    drop(queue);
                    self.fail(&format!("queue {index}: {error}"));
                    return None;
                }
            };
            if let Some(chain) = chain {
                // Section 2.7.5.3.1: no chain is longer than the queue, tables of descriptors included.
                if chain.clone().nth(usize::from(queue.size())).is_some() {
                    drop(queue);
                    self.fail(&format!("queue {index}: a descriptor chain is longer than the queue"));
                    return None;
                }
                *self.taken.lock() += 1;
                return Some(Buffers::of(&chain));
            }
            // Ask to be notified again, and look once more for what came in between.
            if !queue.enable_notification(&*self.memory).unwrap_or(false) {
                return None;
            }
        }
    }

    /// A chain that was taken is kept by the device until the machine was stopped and goes on: nobody waits for it.
    pub fn set_aside(&self) {
        self.count_given_back();
    }

    /// A chain that was set aside is worked on again; false while the machine stands still or the device is not in use.
    pub fn take_again(&self) -> bool {
        let _queues: Vec<_> = self.queues.iter().map(Mutex::lock).collect();
        let may = self.is_active() && !self.is_paused();
        *self.taken.lock() += usize::from(may);
        may
    }

    /// Gives a chain back as used, of which the device wrote so many bytes; `None` says that it breaks the rules: the device stops
    /// until it is reset.
    pub fn give_back(&self, index: u16, buffers: Buffers, length: Option<u32>) {
        if let Some(queue) = self.queue(index) {
            let used = match length {
                // Whoever waits for this forgets the queue.
                _ if !self.is_active() => Ok(()),
                Some(length) => {
                    let used = queue.lock().add_used(&*self.memory, buffers.head, length);
                    used.map_err(|error| error.to_string())
                }
                None => Err("a descriptor chain breaks the device's rules".into()),
            };
            if let Err(problem) = used {
                self.fail(&format!("queue {index}: {problem}"));
            }
        }
        self.count_given_back();
    }

    /// While this lives, who waits for chains to be given back goes on waiting: until the driver was told of the last ones, too.
    pub fn hold(&self) -> Held<'_> {
        *self.taken.lock() += 1;
        Held(self)
    }

    fn count_given_back(&self) {
        let mut taken = self.taken.lock();
        *taken -= 1;
        if *taken == 0 {
            self.all_given_back.notify_all();
        }
    }

    /// Tells the driver of used buffers of queue `index`, if it wants to know.
    pub fn interrupt_if_wanted(&self, index: u16) {
        let Some(queue) = self.queue(index) else { return };
        if self.is_active() && self.wants_interrupt(&mut queue.lock()) {
            self.interrupt.queue(index);
        }
    }

    fn wants_interrupt(&self, queue: &mut Queue) -> bool {
        if self.features() & F_EVENT_IDX == 0 {
            // Section 2.7.7: bit 0 of the available ring's flags.
            let flags = self.memory.read_obj::<u16>(GuestAddress(queue.avail_ring())).unwrap_or(0);
            return u16::from_le(flags) & 1 == 0;
        }
        queue.needs_notification(&*self.memory).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::test_support::Driver;
    use crate::virtio::VirtioDevice;

    /// A device that leaves its queue to the test.
    #[derive(Default)]
    struct Plain {
        queues: OnceLock<Arc<Queues>>,
    }

    impl VirtioDevice for Plain {
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
            let _ = self.queues.set(queues);
        }
        fn notify(&self, _queue: u16) {}
    }

    #[test]
    fn no_more_chains_are_taken_than_the_queue_has() {
        let device = Arc::new(Plain::default());
        let mut driver = Driver::new(device.clone());
        driver.start();
        let queues = device.queues.get().unwrap();
        let mut add = || driver.add_raw(0, 0x8000, 1, 0);
        let taken: Vec<Buffers> = (0..16)
            .map(|_| {
                add();
                queues.take(0).unwrap()
            })
            .collect();
        // The driver had none of them back.
        add();
        assert!(queues.take(0).is_none());
        taken.into_iter().for_each(|buffers| queues.give_back(0, buffers, Some(0)));
        assert!(queues.take(0).is_some());
    }
}
