//! Virtio block device.
//!
//! VIRTIO 1.2, section 5.2. One queue; requests are served in order by a thread of the device.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use block::Backend;

use super::VirtioDevice;
use super::queues::{Chain, Outcome, Queues};
use crate::worker::Worker;

/// Feature bit: the configuration space says how many segments a request may have.
const F_SEG_MAX: u64 = 1 << 2;
/// Feature bit: the disk is read-only.
const F_RO: u64 = 1 << 5;
/// Feature bit: the configuration space gives the block size.
const F_BLK_SIZE: u64 = 1 << 6;
/// Feature bit: requests to flush are understood.
const F_FLUSH: u64 = 1 << 9;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;

const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;

/// Length of the string that T_GET_ID returns, bytes.
const ID_LENGTH: usize = 20;

const SECTOR: u64 = 512;

const QUEUE_SIZE: u16 = 256;

/// Requests are copied through a buffer of this size.
const BUFFER: usize = 128 * 1024;

/// A block device on a node of the block layer.
pub struct VirtioBlk {
    disk: Arc<Backend>,
    shared: Arc<Shared>,
    worker: Worker,
}

struct Shared {
    disk: Arc<Backend>,
    serial: String,
    queues: OnceLock<Arc<Queues>>,
}

impl VirtioBlk {
    /// A device for `disk`, whose length is taken in whole sectors of 512 bytes. `serial` is what the guest reads as
    /// its serial number (at most 20 bytes of it).
    pub fn new(disk: Arc<Backend>, serial: &str) -> std::io::Result<Arc<VirtioBlk>> {
        let shared = Arc::new(Shared { disk: disk.clone(), serial: serial.to_owned(), queues: OnceLock::new() });
        let work = shared.clone();
        let worker = Worker::start("virtio-blk", move || {
            work.queues.get().is_some_and(|queues| queues.process(0, |chain| work.serve(queues, chain)))
        })?;
        Ok(Arc::new(VirtioBlk { disk, shared, worker }))
    }
}

impl Shared {
    fn serve(&self, queues: &Queues, chain: &Chain<'_>) -> Outcome {
        let Ok(mut reader) = chain.clone().reader(queues.memory()) else { return Outcome::Broken };
        let Ok(mut writer) = chain.clone().writer(queues.memory()) else { return Outcome::Broken };
        let mut header = [0; 16];
        // The last writable byte is the status; without it or the header there is no request.
        let Some(room) = writer.available_bytes().checked_sub(1) else { return Outcome::Broken };
        if reader.read_exact(&mut header).is_err() {
            return Outcome::Broken;
        }
        let Ok(mut status_writer) = writer.split_at(room) else { return Outcome::Broken };
        let [kind, _] =
            [0, 4].map(|at| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        let sector = u64::from_le_bytes(header[8..].try_into().unwrap_or_default());
        let status = match kind {
            T_IN => self.read(sector, &mut writer, room),
            T_OUT => self.write(sector, &mut reader),
            T_FLUSH => self.disk.flush_blocking().map_err(|error| self.report("flush", &error)),
            T_GET_ID => {
                let mut id = [0; ID_LENGTH];
                let length = self.serial.len().min(ID_LENGTH);
                id[..length].copy_from_slice(&self.serial.as_bytes()[..length]);
                writer.write_all(&id[..room.min(ID_LENGTH)]).map_err(|_| S_IOERR)
            }
            _ => Err(S_UNSUPP),
        };
        let written = writer.bytes_written();
        match status_writer.write_all(&[status.err().unwrap_or(S_OK)]) {
            Ok(()) => Outcome::Used(u32::try_from(written).unwrap_or(u32::MAX).saturating_add(1)),
            Err(_) => Outcome::Broken,
        }
    }

    fn report(&self, operation: &str, error: &block::Error) -> u8 {
        tracing::debug!("virtio-blk: {operation}: {error}");
        S_IOERR
    }

    /// The byte offset of a request of whole sectors that lies within the disk.
    fn check(&self, sector: u64, length: usize) -> Result<u64, u8> {
        let offset = sector.checked_mul(SECTOR).ok_or(S_IOERR)?;
        let end = offset.checked_add(length as u64).ok_or(S_IOERR)?;
        let whole = (length as u64).is_multiple_of(SECTOR) && end <= self.disk.length() / SECTOR * SECTOR;
        if whole { Ok(offset) } else { Err(S_IOERR) }
    }

    fn read(&self, sector: u64, writer: &mut impl Write, length: usize) -> Result<(), u8> {
        let mut offset = self.check(sector, length)?;
        let mut buffer = vec![0; length.min(BUFFER)];
        let mut left = length;
        while left > 0 {
            let part = &mut buffer[..left.min(BUFFER)];
            self.disk.read_blocking(offset, part).map_err(|error| self.report("read", &error))?;
            writer.write_all(part).map_err(|_| S_IOERR)?;
            left -= part.len();
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn write(
        &self,
        sector: u64,
        reader: &mut virtio_queue::Reader<'_, impl vm_memory::bitmap::BitmapSlice>,
    ) -> Result<(), u8> {
        let length = reader.available_bytes();
        let mut offset = self.check(sector, length)?;
        let mut buffer = vec![0; length.min(BUFFER)];
        let mut left = length;
        while left > 0 {
            let part = &mut buffer[..left.min(BUFFER)];
            reader.read_exact(part).map_err(|_| S_IOERR)?;
            self.disk.write_blocking(offset, part).map_err(|error| self.report("write", &error))?;
            left -= part.len();
            offset += part.len() as u64;
        }
        Ok(())
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
        let read_only = if self.disk.is_read_only() { F_RO } else { 0 };
        F_SEG_MAX | F_BLK_SIZE | F_FLUSH | read_only
    }
    fn config_length(&self) -> usize {
        60
    }
    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; self.config_length()];
        config[0..8].copy_from_slice(&(self.disk.length() / SECTOR).to_le_bytes());
        config[12..16].copy_from_slice(&u32::from(QUEUE_SIZE - 2).to_le_bytes());
        config[20..24].copy_from_slice(&(SECTOR as u32).to_le_bytes());
        config
    }
    fn attach(&self, queues: Arc<Queues>) {
        // A transport attaches a device once.
        let _ = self.shared.queues.set(queues);
    }
    fn ready(&self) {
        self.worker.kick();
    }
    fn notify(&self, _queue: u16) {
        self.worker.kick();
    }
    fn pause(&self) {
        self.worker.pause();
    }
    fn resume(&self) {
        self.worker.kick();
        self.worker.resume();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Driver, raw_disk};

    fn driver(length: usize, read_only: bool) -> (Driver, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..length).map(|index| (index / 512) as u8).collect();
        std::fs::write(file.path(), bytes).unwrap();
        let disk = raw_disk(file.path(), read_only);
        let mut driver = Driver::new(VirtioBlk::new(disk, "a serial number that is too long").unwrap());
        driver.start();
        (driver, file)
    }

    fn header(kind: u32, sector: u64) -> Vec<u8> {
        [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
    }

    /// Sends a request; returns the length used, what came back, and the status.
    fn request(driver: &mut Driver, readable: &[&[u8]], room: u32) -> (u32, Vec<u8>, u8) {
        let writable: &[u32] = if room > 0 { &[room, 1] } else { &[1] };
        let chain = driver.add(0, readable, writable);
        driver.notify(0);
        let used = driver.wait_used(0);
        assert_eq!(used[0].0, chain.head);
        let status = driver.read(*chain.writable.last().unwrap(), 1)[0];
        let data = if room > 0 { driver.read(chain.writable[0], room as usize) } else { Vec::new() };
        (used[0].1, data, status)
    }

    #[test]
    fn the_configuration_tells_capacity_and_block_size() {
        let (driver, _file) = driver(512 * 9 + 100, true);
        assert_eq!((driver.config(0, 4), driver.config(4, 4), driver.config(20, 4)), (9, 0, 512));
        assert_eq!(driver.device_features() & F_RO, F_RO);
    }

    #[test]
    fn sectors_are_written_read_back_and_flushed() {
        let (mut driver, file) = driver(512 * 8, false);
        let (used, data, status) = request(&mut driver, &[&header(T_IN, 3)], 1024);
        assert_eq!((used, status), (1025, S_OK));
        assert_eq!((data[0], data[512]), (3, 4));
        let payload = [0xab; 512];
        assert_eq!(request(&mut driver, &[&header(T_OUT, 7), &payload], 0), (1, Vec::new(), S_OK));
        assert_eq!(request(&mut driver, &[&header(T_FLUSH, 0)], 0).2, S_OK);
        assert_eq!(std::fs::read(file.path()).unwrap()[512 * 7..], payload);
    }

    #[test]
    fn what_lies_beyond_the_end_or_is_no_whole_sector_fails() {
        let (mut driver, file) = driver(512 * 8, false);
        let before = std::fs::read(file.path()).unwrap();
        assert_eq!(request(&mut driver, &[&header(T_IN, 7)], 1024).2, S_IOERR);
        assert_eq!(request(&mut driver, &[&header(T_IN, u64::MAX)], 512).2, S_IOERR);
        assert_eq!(request(&mut driver, &[&header(T_IN, 0)], 100).2, S_IOERR);
        assert_eq!(request(&mut driver, &[&header(T_OUT, 8), &[1; 512]], 0).2, S_IOERR);
        assert_eq!(request(&mut driver, &[&header(T_OUT, 0), &[1; 511]], 0).2, S_IOERR);
        assert_eq!(request(&mut driver, &[&header(99, 0)], 0).2, S_UNSUPP);
        assert_eq!(std::fs::read(file.path()).unwrap(), before);
    }

    #[test]
    fn the_serial_number_is_cut_to_twenty_bytes() {
        let (mut driver, _file) = driver(512, false);
        let (_, data, status) = request(&mut driver, &[&header(T_GET_ID, 0)], 20);
        assert_eq!((&data[..], status), (&b"a serial number that"[..], S_OK));
    }

    #[test]
    fn writes_to_a_read_only_disk_fail() {
        let (mut driver, _file) = driver(512, true);
        assert_eq!(request(&mut driver, &[&header(T_OUT, 0), &[1; 512]], 0).2, S_IOERR);
    }

    #[test]
    fn a_request_without_header_or_status_breaks_the_device() {
        for (readable, writable) in [(&[&[0u8; 15][..]][..], &[1u32][..]), (&[&[0; 16]], &[])] {
            let (mut driver, _file) = driver(512, false);
            driver.add(0, readable, writable);
            driver.notify(0);
            driver.wait_needs_reset();
        }
    }
}
