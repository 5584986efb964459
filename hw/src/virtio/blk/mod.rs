//! Virtio block device.
//!
//! VIRTIO 1.2, section 5.2. One queue, served by a thread of the device: requests are under way at once and are used in the order in
//! which they are done. Data goes from and to the guest's memory without a copy.

mod request;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use block::Backend;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::VirtioDevice;
use super::queues::{Buffers, Queues};
use crate::device::{StateError, parse_state, state_value};
use request::{MOST_RANGES, MOST_SECTORS, Outcome, Server};

/// Feature bit: the configuration space says how many segments a request may have.
const F_SEG_MAX: u64 = 1 << 2;
/// Feature bit: the disk is read-only.
const F_RO: u64 = 1 << 5;
/// Feature bit: the configuration space gives the block size.
const F_BLK_SIZE: u64 = 1 << 6;
/// Feature bit: requests to flush are understood.
const F_FLUSH: u64 = 1 << 9;
/// Feature bit: requests to discard are understood.
const F_DISCARD: u64 = 1 << 13;
/// Feature bit: requests to write zeros are understood.
const F_WRITE_ZEROES: u64 = 1 << 14;

const SECTOR: u64 = 512;

const QUEUE_SIZE: u16 = 256;

/// A block device on a node of the block layer.
pub struct VirtioBlk {
    disk: Arc<Backend>,
    shared: Arc<Shared>,
}

struct Shared {
    queues: OnceLock<Arc<Queues>>,
    /// Told when there may be something to do.
    kick: Notify,
    /// Requests that failed and are made again when the machine goes on.
    // Lock order: alone.
    stalled: Mutex<Stalled>,
    is_ended: AtomicBool,
}

/// Requests that failed and are not given up.
#[derive(Default, Serialize, Deserialize)]
struct Stalled {
    /// They wait until the machine has stopped and goes on.
    waiting: Vec<Buffers>,
    /// It does.
    again: Vec<Buffers>,
}

impl VirtioBlk {
    /// A device for `disk`, whose length is taken in whole sectors of 512 bytes. `serial` is what the guest reads as
    /// its serial number (at most 20 bytes of it).
    pub fn new(disk: Arc<Backend>, serial: &str) -> std::io::Result<Arc<VirtioBlk>> {
        let shared = Arc::new(Shared {
            queues: OnceLock::new(),
            kick: Notify::new(),
            stalled: Mutex::default(),
            is_ended: AtomicBool::new(false),
        });
        let (server, thread) = (Server::new(disk.clone(), serial), shared.clone());
        std::thread::Builder::new()
            .name("virtio-blk".into())
            .spawn(move || futures_executor::block_on(thread.serve(&server)))?;
        let told = Arc::downgrade(&shared);
        disk.on_resize(move || {
            if let Some(queues) = told.upgrade().as_ref().and_then(|shared| shared.queues.get()) {
                queues.config_changed();
            }
        });
        Ok(Arc::new(VirtioBlk { disk, shared }))
    }
}

impl Shared {
    /// The next request: those that failed and are made again come first.
    fn take(&self, queues: &Queues) -> Option<Buffers> {
        {
            let mut stalled = self.stalled.lock();
            if !stalled.again.is_empty() && queues.take_again() {
                return Some(stalled.again.remove(0));
            }
        }
        queues.take(0)
    }

    /// Serves requests until the device is gone.
    async fn serve(&self, server: &Server) {
        let mut requests = FuturesUnordered::new();
        loop {
            let kicked = self.kick.notified();
            if self.is_ended.load(Ordering::Acquire) {
                // None is given up halfway: the host would go on with it when the disk has another use.
                while requests.next().await.is_some() {}
                return;
            }
            if let Some(queues) = self.queues.get() {
                while let Some(buffers) = self.take(queues) {
                    requests.push(async move {
                        let outcome = server.serve(queues, &buffers).await;
                        (buffers, outcome)
                    });
                }
            }
            if requests.is_empty() {
                kicked.await;
                continue;
            }
            let done = match select(std::pin::pin!(kicked), requests.next()).await {
                Either::Left(_) => continue,
                Either::Right((done, _)) => done,
            };
            let Some(queues) = self.queues.get() else { continue };
            // Who stops the machine finds that the driver has been told of all.
            let _held = queues.hold();
            let mut next = done;
            // Those that are done by now, too, need no interrupt of their own.
            while let Some((buffers, outcome)) = next {
                match outcome {
                    Outcome::Done(length) => queues.give_back(0, buffers, Some(length)),
                    Outcome::Broken => queues.give_back(0, buffers, None),
                    Outcome::Stalled => {
                        self.stalled.lock().waiting.push(buffers);
                        queues.set_aside();
                    }
                }
                next = requests.next().now_or_never().flatten();
            }
            queues.interrupt_if_wanted(0);
        }
    }
}

impl VirtioDevice for VirtioBlk {
    fn device_id(&self) -> u32 {
        2
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }
    fn features(&self) -> u64 {
        let writing = if self.disk.is_read_only() { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
        F_SEG_MAX | F_BLK_SIZE | F_FLUSH | writing
    }
    fn config_length(&self) -> usize {
        60
    }
    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; self.config_length()];
        let mut put = |at: usize, value: u32| config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let sectors = self.disk.length() / SECTOR;
        put(0, sectors as u32);
        put(4, (sectors >> 32) as u32);
        // seg_max, blk_size
        put(12, u32::from(QUEUE_SIZE - 2));
        put(20, SECTOR as u32);
        if !self.disk.is_read_only() {
            // max_discard_sectors, max_discard_seg, discard_sector_alignment
            put(36, MOST_SECTORS);
            put(40, MOST_RANGES);
            put(44, 1);
            // max_write_zeroes_sectors, max_write_zeroes_seg, write_zeroes_may_unmap
            put(48, MOST_SECTORS);
            put(52, MOST_RANGES);
            put(56, 1);
        }
        config
    }
    fn attach(&self, queues: Arc<Queues>) {
        // A transport attaches a device once.
        let _ = self.shared.queues.set(queues);
    }
    fn ready(&self) {
        self.shared.kick.notify_one();
    }
    fn notify(&self, _queue: u16) {
        self.shared.kick.notify_one();
    }
    fn reset(&self) {
        *self.shared.stalled.lock() = Stalled::default();
    }
    fn resume(&self) {
        let mut stalled = self.shared.stalled.lock();
        let waiting = std::mem::take(&mut stalled.waiting);
        stalled.again.extend(waiting);
        drop(stalled);
        self.shared.kick.notify_one();
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.shared.stalled.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        *self.shared.stalled.lock() = parse_state("virtio-blk", state)?;
        Ok(())
    }
}

impl Drop for VirtioBlk {
    fn drop(&mut self) {
        self.shared.is_ended.store(true, Ordering::Release);
        self.shared.kick.notify_one();
    }
}
