//! Requests of a virtio block device: VIRTIO 1.2, section 5.2.6.

use std::sync::Arc;

use accel::memory::GuestMemory;
use block::{Backend, ErrorAction, Operation, ZeroFlags};

use super::SECTOR;
use crate::virtio::queues::{Buffers, Memory, Queues};

pub(super) const T_IN: u32 = 0;
pub(super) const T_OUT: u32 = 1;
pub(super) const T_FLUSH: u32 = 4;
pub(super) const T_GET_ID: u32 = 8;
pub(super) const T_DISCARD: u32 = 11;
pub(super) const T_WRITE_ZEROES: u32 = 13;

pub(super) const S_OK: u8 = 0;
pub(super) const S_IOERR: u8 = 1;
pub(super) const S_UNSUPP: u8 = 2;

/// Length of a request's header, bytes.
const HEADER: u64 = 16;
/// Length of the string that T_GET_ID returns, bytes.
const ID_LENGTH: usize = 20;
/// Length of a range of T_DISCARD and T_WRITE_ZEROES, bytes.
const RANGE: usize = 16;
/// Most ranges of such a request.
pub(super) const MOST_RANGES: u32 = 1;
/// Most sectors of such a range.
pub(super) const MOST_SECTORS: u32 = 1 << 22;
/// Flag of a range: the room may be given back.
const UNMAP: u32 = 1;

/// What became of a request.
pub(super) enum Outcome {
    /// It is done, and so many bytes were written into the guest's memory.
    Done(u32),
    /// It failed, and is to be made again when the machine goes on.
    Stalled,
    /// The buffers break the rules.
    Broken,
}

/// The status that the guest is told, or [`Stalls`].
type Status = Result<u8, Stalls>;

/// The request waits until the machine goes on.
struct Stalls;

/// What requests are served with.
pub(super) struct Server {
    disk: Arc<Backend>,
    serial: String,
}

impl Server {
    pub(super) fn new(disk: Arc<Backend>, serial: &str) -> Server {
        Server { disk, serial: serial.to_owned() }
    }

    /// Serves a request.
    pub(super) async fn serve(&self, queues: &Queues, buffers: &Buffers) -> Outcome {
        let memory = queues.shared_memory();
        match self.try_serve(memory, buffers).await {
            Some(Ok(written)) => Outcome::Done(u32::try_from(written).unwrap_or(u32::MAX).saturating_add(1)),
            Some(Err(Stalls)) => Outcome::Stalled,
            None => Outcome::Broken,
        }
    }

    /// How many bytes were written before the status; `None` if the buffers break the rules.
    async fn try_serve(&self, memory: &Arc<GuestMemory>, buffers: &Buffers) -> Option<Result<u64, Stalls>> {
        // The last writable byte is the status; without it or the header there is no request.
        let room = buffers.writable.length().checked_sub(1)?;
        let (header, data) = buffers.readable.split(HEADER)?;
        let (answer, status) = buffers.writable.split(room)?;
        let header = header.bytes(memory)?;
        let kind = header.first_chunk().copied().map(u32::from_le_bytes)?;
        let sector = header.get(8..).and_then(|bytes| bytes.first_chunk()).copied().map(u64::from_le_bytes)?;
        let (done, written) = match kind {
            T_IN => (self.read(sector, &answer, memory).await?, room),
            T_OUT => (self.write(sector, &data, memory).await?, 0),
            T_FLUSH => (self.status(Operation::Write, self.disk.flush().await), 0),
            T_GET_ID => {
                let mut id = [0; ID_LENGTH];
                let length = self.serial.len().min(ID_LENGTH);
                id[..length].copy_from_slice(&self.serial.as_bytes()[..length]);
                let length = room.min(ID_LENGTH as u64);
                answer.split(length)?.0.put(memory, &id[..length as usize])?;
                (Ok(S_OK), length)
            }
            T_DISCARD | T_WRITE_ZEROES => {
                // Ranges take 16 bytes, and nobody sends megabytes of them.
                let (ranges, _) = data.split(data.length().min((RANGE as u64) * u64::from(MOST_RANGES) + 1))?;
                (self.change_ranges(kind, &ranges.bytes(memory)?).await, 0)
            }
            _ => (Ok(S_UNSUPP), 0),
        };
        let done = match done {
            Ok(done) => done,
            Err(stalls) => return Some(Err(stalls)),
        };
        status.put(memory, &[done])?;
        Some(Ok(if done == S_OK { written } else { 0 }))
    }

    fn status(&self, operation: Operation, result: Result<(), block::Error>) -> Status {
        let Err(error) = result else { return Ok(S_OK) };
        match self.disk.failed(operation, &error) {
            ErrorAction::Report => Ok(S_IOERR),
            ErrorAction::Ignore => Ok(S_OK),
            ErrorAction::Stop => Err(Stalls),
        }
    }

    /// The byte offset of a request of whole sectors that lies within the disk.
    fn check(&self, sector: u64, length: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(length)?;
        let whole = length.is_multiple_of(SECTOR) && end <= self.disk.length() / SECTOR * SECTOR;
        whole.then_some(offset)
    }

    async fn read(&self, sector: u64, answer: &Memory, memory: &Arc<GuestMemory>) -> Option<Status> {
        let Some(offset) = self.check(sector, answer.length()) else { return Some(Ok(S_IOERR)) };
        let done = self.disk.read(offset, answer.vector(memory)?).await;
        answer.mark_written(memory);
        Some(self.status(Operation::Read, done))
    }

    async fn write(&self, sector: u64, data: &Memory, memory: &Arc<GuestMemory>) -> Option<Status> {
        let Some(offset) = self.check(sector, data.length()) else { return Some(Ok(S_IOERR)) };
        let done = self.disk.write(offset, data.vector(memory)?).await;
        Some(self.status(Operation::Write, done))
    }

    /// Discards ranges, or makes them zero.
    async fn change_ranges(&self, kind: u32, ranges: &[u8]) -> Status {
        let (ranges, rest) = ranges.as_chunks::<RANGE>();
        if !rest.is_empty() || ranges.len() > MOST_RANGES as usize {
            return Ok(S_UNSUPP);
        }
        for range in ranges {
            let [start, count, flags] = [&range[..8], &range[8..12], &range[12..]]
                .map(|field| field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)));
            let allowed = if kind == T_WRITE_ZEROES { UNMAP } else { 0 };
            if flags & !u64::from(allowed) != 0 {
                return Ok(S_UNSUPP);
            }
            if count > u64::from(MOST_SECTORS) {
                return Ok(S_IOERR);
            }
            let Some(offset) = self.check(start, count * SECTOR) else { return Ok(S_IOERR) };
            let done = if kind == T_DISCARD {
                self.disk.discard(offset, count * SECTOR).await
            } else {
                let flags = if flags != 0 { ZeroFlags::MAY_UNMAP } else { ZeroFlags::empty() };
                self.disk.write_zeroes(offset, count * SECTOR, flags).await
            };
            let status = self.status(Operation::Write, done)?;
            if status != S_OK {
                return Ok(status);
            }
        }
        Ok(S_OK)
    }
}
