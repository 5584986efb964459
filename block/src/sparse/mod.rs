//! What formats have in common whose disk is in blocks, with tables that say where in the file each of them is.
//!
//! A format implements [`Layout`]: where a block is, and how a new one is noted. [`Sparse`] makes a driver of that.
//!
//! Tables are changed in memory ([`Pages`]) and written when the disk is flushed: first the data, then, once it is on stable storage,
//! the tables. So a crash finds tables that point to data that is there, and what is lost is what was not flushed. Blocks never move
//! while a disk is open, and the room of one is never given to another, so reads and writes of blocks that are there need no lock.

mod pages;
mod table;

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::driver::{Driver, Preallocation, Role, Status, StatusKind, ZeroFlags, Zeroed};
use crate::range_lock::RangeLock;
use crate::together::all_of;
use crate::{Edge, Error, IoVector, Node};

pub(crate) use pages::{ChangedPage, Level, Page, Pages};
pub(crate) use table::{Places, Table, Used};

/// Most bytes of new blocks that one write makes at once.
const MOST_NEW: u64 = 8 << 20;
/// Most bytes of unpacked blocks that are kept, where it is more than one block.
const MOST_UNPACKED: usize = 8 << 20;
/// Most bytes of blocks that are unpacked at once, where it is more than one block.
const MOST_UNPACKING: u64 = 64 << 20;
/// Most blocks that are looked up at once.
const MOST_IN_RUN: u64 = 1 << 14;
/// Pages that are written at once.
const PAGES_AT_ONCE: usize = 32;

/// Where a block of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not in this image: it is what the image behind has, or zeros.
    Absent,
    /// It is zeros, whatever is behind.
    Zero,
    /// In the file from this offset on, as it is.
    At(u64),
    /// In the file in packed form: where it begins, and how many bytes it takes at most.
    Packed(u64, usize),
}

impl Place {
    /// The place, if the whole block or at least its beginning lies between `start` and the end of the file.
    pub(crate) fn at(offset: u64, field: &'static str, start: u64, file: &Node) -> Result<Place, Error> {
        check_offset(offset, field, start, file.length()).map(|()| Place::At(offset))
    }
}

/// Checks that something at an offset of the file begins neither before `start` nor at the end of the file or behind it.
pub(crate) fn check_offset(offset: u64, field: &'static str, start: u64, end: u64) -> Result<(), Error> {
    if (start..end).contains(&offset) {
        return Ok(());
    }
    let valid = format!("what it points to lies in the file between offset {start} and its end {end}");
    Err(crate::FieldError::value(field, offset, valid).into())
}

/// The tables of a format.
#[async_trait]
pub(crate) trait Layout: Send + Sync + 'static {
    /// Name of the driver.
    fn name(&self) -> &'static str;

    /// Length of the disk, bytes.
    fn length(&self) -> u64;

    /// Length of a block, bytes.
    fn block_size(&self) -> u64;

    /// The image cannot be written, whatever its file allows.
    fn is_read_only(&self) -> bool {
        false
    }

    /// Where a block is. It is in the disk.
    async fn find(&self, block: u64) -> Result<Place, Error>;

    /// Whether [`Layout::set`] can say that a block is zero.
    fn can_be_zero(&self) -> bool {
        false
    }

    /// Called before bytes of a block are written that is in the file already.
    async fn before_write(&self, block: u64) -> Result<(), Error> {
        let _ = block;
        Ok(())
    }

    /// Room in the file for a block, which nothing else has. What was asked for and is not used is lost.
    async fn reserve(&self) -> Result<u64, Error> {
        Err(Error::ReadOnly)
    }

    /// Notes that a block, which was elsewhere or nowhere, has now this place.
    async fn set(&self, block: u64, place: Place) -> Result<(), Error> {
        let _ = (block, place);
        Err(Error::ReadOnly)
    }

    /// The tables in memory.
    fn pages(&self) -> &Pages;

    /// The bytes of a block, of what its [`Place::Packed`] has.
    async fn unpack(&self, block: u64, packed: Vec<u8>) -> Result<Vec<u8>, Error> {
        let _ = packed;
        Err(Error::Corrupt(format!("block {block} is in packed form")))
    }

    /// Blocks may be in packed form.
    fn has_packed(&self) -> bool {
        false
    }

    /// Blocks can be written in packed form only.
    fn needs_compression(&self) -> bool {
        false
    }

    /// A block's bytes compressed; `None`: they are written as they are.
    async fn compress(&self, data: Vec<u8>) -> Result<Option<Vec<u8>>, Error> {
        let _ = data;
        Ok(None)
    }

    /// Room in the file for a block in packed form, what is to be there, and the place that this is: the compressed bytes, and what
    /// stands around them.
    async fn pack(&self, block: u64, compressed: Vec<u8>) -> Result<(u64, Vec<u8>, Place), Error> {
        let _ = (block, compressed);
        Err(Error::Unsupported(format!("driver '{}' has no compressed data", self.name())))
    }

    /// Called before anything of the disk is changed.
    async fn before_change(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Writes changed pages so that a crash does no harm. All data that they point to is on stable storage, and so must the pages be
    /// in the end.
    async fn store(&self, file: &Node, pages: &[ChangedPage]) -> Result<(), Error> {
        store_in_order(file, pages).await
    }

    /// Called when the disk is closed, and everything is stored.
    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Writes pages in place, those of each level after those that they point to.
pub(crate) async fn store_in_order(file: &Node, pages: &[ChangedPage]) -> Result<(), Error> {
    for of_one_level in pages.chunk_by(|left, right| left.level == right.level) {
        for some in of_one_level.chunks(PAGES_AT_ONCE) {
            // None of them may be under way when the page is written again.
            all_of(some.iter().map(|page| file.write_bytes(page.offset, &page.bytes))).await?;
        }
        file.flush().await?;
    }
    Ok(())
}

/// A disk in blocks.
pub(crate) struct Sparse<L> {
    inner: Arc<Inner<L>>,
    /// Blocks that get their place, by the bytes of the disk that they are.
    allocating: RangeLock,
    /// The flush that is under way. One that was given up stays here, and is brought to its end by the next, so that no write of it can
    /// come after one of the next.
    flushing: tokio::sync::Mutex<Option<BoxFuture<'static, Result<(), Error>>>>,
    /// Blocks that were unpacked, the last one at the end.
    // Lock order: alone.
    unpacked: Mutex<VecDeque<(u64, IoVector)>>,
    /// Has as many permits as blocks may be unpacked at once.
    unpacking: tokio::sync::Semaphore,
    /// From here on the file has never been written: there are zeros, or no file yet.
    fresh_from: u64,
}

struct Inner<L> {
    file: Arc<Node>,
    backing: Edge,
    layout: L,
}

/// Bytes of a disk that are in one place.
struct Run {
    place: Place,
    block: u64,
    /// Offset within the block of the first byte.
    within: u64,
    length: usize,
}

impl<L: Layout> Sparse<L> {
    /// The disk of an image in a file.
    pub(crate) fn new(file: Arc<Node>, backing: Option<Arc<Node>>, layout: L) -> Sparse<L> {
        let fresh_from = file.length();
        let unpacking = (MOST_UNPACKING / layout.block_size().max(1)).max(1) as usize;
        Sparse {
            inner: Arc::new(Inner { file, backing: Edge::new(backing), layout }),
            allocating: RangeLock::default(),
            flushing: tokio::sync::Mutex::default(),
            unpacked: Mutex::default(),
            unpacking: tokio::sync::Semaphore::new(unpacking),
            fresh_from,
        }
    }

    fn layout(&self) -> &L {
        &self.inner.layout
    }

    fn file(&self) -> &Node {
        &self.inner.file
    }

    /// Checks a request that changes the disk.
    async fn begin_change(&self, offset: u64, length: u64) -> Result<(), Error> {
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        let disk = self.layout().length();
        if offset.checked_add(length).is_none_or(|end| end > disk) {
            return Err(Error::OutOfBounds { offset, length, disk });
        }
        self.layout().before_change().await
    }

    /// The bytes from `offset` on that are together, at most `length` of them, and `length` is not 0. All are within the disk.
    async fn run(&self, offset: u64, length: u64) -> Result<Run, Error> {
        let size = self.layout().block_size();
        let (block, within) = (offset / size, offset % size);
        let place = self.layout().find(block).await?;
        let (mut found, mut next) = (length.min(size - within), block + 1);
        while found < length && next - block < MOST_IN_RUN {
            let goes_on = match (place, self.layout().find(next).await?) {
                (Place::At(first), Place::At(then)) => first.checked_add((next - block) * size) == Some(then),
                (Place::Packed(..), _) => false,
                (before, then) => before == then,
            };
            if !goes_on {
                break;
            }
            found = (found + size).min(length);
            next += 1;
        }
        Ok(Run { place, block, within, length: found as usize })
    }

    async fn read_run(&self, offset: u64, run: &Run, to: IoVector) -> Result<(), Error> {
        match (run.place, self.inner.backing.node()) {
            (Place::At(start), _) => self.file().read(start.saturating_add(run.within), to).await,
            (Place::Packed(start, length), _) => {
                let unpacked = self.unpacked(run.block, start, length).await?;
                to.copy_from_vector(&unpacked.slice(run.within as usize, run.length));
                Ok(())
            }
            (Place::Absent, Some(backing)) => backing.read(offset, to).await,
            (Place::Absent | Place::Zero, _) => {
                to.fill(0);
                Ok(())
            }
        }
    }

    /// The bytes of a packed block.
    async fn unpacked(&self, block: u64, start: u64, length: usize) -> Result<IoVector, Error> {
        let kept = self.unpacked.lock().iter().find(|(kept, _)| *kept == block).map(|(_, bytes)| bytes.clone());
        if let Some(kept) = kept {
            return Ok(kept);
        }
        // It is never closed.
        let _permit = self.unpacking.acquire().await.ok();
        let packed = self.file().read_vec(start, length).await?;
        let mut bytes = self.layout().unpack(block, packed).await?;
        let size = self.layout().block_size() as usize;
        // The last block may end with the disk.
        let needed = (self.layout().length() - block * size as u64).min(size as u64) as usize;
        if bytes.len() < needed {
            let text = format!("block {block} has {} bytes when it is unpacked, not {needed}", bytes.len());
            return Err(Error::Corrupt(text));
        }
        bytes.resize(size, 0);
        let bytes = IoVector::copy_of(&bytes);
        let mut unpacked = self.unpacked.lock();
        unpacked.retain(|(kept, _)| *kept != block);
        unpacked.push_back((block, bytes.clone()));
        while unpacked.len() > (MOST_UNPACKED / size).max(1) {
            unpacked.pop_front();
        }
        Ok(bytes)
    }

    /// Writes to blocks that have no place of their own yet, the first of which has `offset`; returns how many bytes. That is 0 if the
    /// block has got one meanwhile.
    async fn write_new(&self, offset: u64, from: &IoVector) -> Result<usize, Error> {
        let size = self.layout().block_size();
        let first = offset / size;
        let most = from.len().min((MOST_NEW.max(size) - offset % size) as usize);
        let blocks = (offset + most as u64).div_ceil(size) - first;
        let _turn = self.allocating.exclusive(first * size..(first + blocks).saturating_mul(size)).await;
        let mut pieces: Vec<(u64, IoVector)> = Vec::new();
        let mut places = Vec::new();
        let mut done = 0;
        for block in first..first + blocks {
            let place = self.layout().find(block).await?;
            if let Place::At(_) = place {
                break;
            }
            let within = (offset + done as u64) % size;
            let part = from.slice(done, (size - within).min((most - done) as u64) as usize);
            let room = self.layout().reserve().await?;
            let is_zero = place == Place::Zero || (place == Place::Absent && !self.inner.backing.is_some());
            if part.len() as u64 == size {
                push_piece(&mut pieces, room, part.clone());
            } else if is_zero {
                if room < self.fresh_from {
                    self.file().write_zeroes(room, size, ZeroFlags::MAY_UNMAP).await?;
                }
                push_piece(&mut pieces, room + within, part.clone());
                // So the file has the whole block.
                if within + (part.len() as u64) < size {
                    push_piece(&mut pieces, room + size - 1, IoVector::zeroed(1));
                }
            } else {
                let whole = IoVector::zeroed(size as usize);
                let before = Run { place, block, within: 0, length: size as usize };
                self.read_run(block * size, &before, whole.clone()).await?;
                whole.slice(within as usize, part.len()).copy_from_vector(&part);
                push_piece(&mut pieces, room, whole);
            }
            places.push((block, room));
            done += part.len();
        }
        all_of(pieces.into_iter().map(|(at, piece)| self.file().write(at, piece))).await?;
        for (block, room) in places {
            self.layout().set(block, Place::At(room)).await?;
        }
        Ok(done)
    }

    /// Makes bytes zero that have no place of their own in the file, all of one block or of blocks in the same way.
    async fn zero_elsewhere(&self, offset: u64, run: &Run) -> Result<(), Error> {
        if run.place == Place::Zero || (run.place == Place::Absent && !self.inner.backing.is_some()) {
            return Ok(());
        }
        let size = self.layout().block_size();
        let (mut at, end) = (offset, offset + run.length as u64);
        while at < end {
            let block = at / size;
            let block_end = ((block + 1) * size).min(self.layout().length());
            let part = block_end.min(end) - at;
            let is_whole = at.is_multiple_of(size) && at + part == block_end;
            if is_whole && self.layout().can_be_zero() {
                let _turn = self.allocating.exclusive(block * size..block_end).await;
                if let Place::At(start) = self.layout().find(block).await? {
                    self.file().write_zeroes(start, part, ZeroFlags::empty()).await?;
                } else {
                    self.layout().set(block, Place::Zero).await?;
                }
            } else if is_whole && self.layout().needs_compression() {
                self.write_compressed(at, IoVector::zeroed(part as usize)).await?;
            } else {
                self.write(at, IoVector::zeroed(part as usize)).await?;
            }
            at += part;
        }
        self.write_back_if_full().await
    }

    async fn write_back_if_full(&self) -> Result<(), Error> {
        if self.layout().pages().is_full() { self.flush().await } else { Ok(()) }
    }
}

impl<L: Layout> Inner<L> {
    async fn write_back(self: Arc<Self>) -> Result<(), Error> {
        // Taken before the data is flushed: what they point to has been written.
        let changed = self.layout.pages().changed();
        self.file.flush().await?;
        if !changed.is_empty() {
            self.layout.store(&self.file, &changed).await?;
            self.layout.pages().written(&changed);
        }
        Ok(())
    }
}

/// Adds bytes that are to be written, to those before where they follow them.
fn push_piece(pieces: &mut Vec<(u64, IoVector)>, at: u64, bytes: IoVector) {
    match pieces.last_mut() {
        Some((start, before)) if *start + before.len() as u64 == at => before.append(bytes),
        _ => pieces.push((at, bytes)),
    }
}

#[async_trait]
impl<L: Layout> Driver for Sparse<L> {
    fn name(&self) -> &'static str {
        self.layout().name()
    }

    fn length(&self) -> u64 {
        self.layout().length()
    }

    fn is_read_only(&self) -> bool {
        self.file().is_read_only() || self.layout().is_read_only()
    }

    fn cluster_size(&self) -> u64 {
        // Elsewhere zeros are left out also where they are a part of a block only.
        if self.layout().has_packed() { self.layout().block_size() } else { 1 }
    }

    fn block_size(&self) -> Option<u64> {
        Some(self.layout().block_size())
    }

    fn needs_compression(&self) -> bool {
        self.layout().needs_compression()
    }

    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let there = self.layout().length().saturating_sub(offset).min(to.len() as u64) as usize;
        to.slice(there, to.len() - there).fill(0);
        let mut reads = Vec::new();
        let mut done = 0;
        while done < there {
            let at = offset + done as u64;
            let run = self.run(at, (there - done) as u64).await?;
            let part = to.slice(done, run.length);
            done += run.length;
            reads.push(async move { self.read_run(at, &run, part).await });
        }
        all_of(reads).await
    }

    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.begin_change(offset, from.len() as u64).await?;
        let mut done = 0;
        while done < from.len() {
            let (at, rest) = (offset + done as u64, from.slice(done, from.len() - done));
            let run = self.run(at, rest.len() as u64).await?;
            done += match run.place {
                Place::At(start) => {
                    for block in run.block..(at + run.length as u64).div_ceil(self.layout().block_size()) {
                        self.layout().before_write(block).await?;
                    }
                    self.file().write(start + run.within, rest.slice(0, run.length)).await?;
                    run.length
                }
                _ => self.write_new(at, &rest.slice(0, run.length)).await?,
            };
        }
        self.write_back_if_full().await
    }

    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        self.begin_change(offset, length).await?;
        let mut done = 0;
        while done < length {
            let at = offset + done;
            let run = self.run(at, length - done).await?;
            match run.place {
                Place::At(start) => {
                    self.file().write_zeroes(start + run.within, run.length as u64, flags).await?;
                }
                _ => self.zero_elsewhere(at, &run).await?,
            }
            done += run.length as u64;
        }
        Ok(Zeroed::Done)
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.begin_change(offset, length).await?;
        let mut done = 0;
        while done < length {
            let run = self.run(offset + done, length - done).await?;
            if let Place::At(start) = run.place {
                self.file().discard(start + run.within, run.length as u64).await?;
            }
            done += run.length as u64;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), Error> {
        let mut flushing = self.flushing.lock().await;
        if let Some(given_up) = flushing.as_mut() {
            // What of it failed is tried again below.
            let _ = given_up.await;
        }
        let flush = flushing.insert(Box::pin(self.inner.clone().write_back()));
        let result = flush.await;
        *flushing = None;
        result
    }

    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let run = self.run(offset, length).await?;
        let (kind, is_here, file_offset, is_compressed) = match run.place {
            Place::At(start) => (StatusKind::Data, true, start.checked_add(run.within), false),
            Place::Packed(..) => (StatusKind::Data, true, None, true),
            Place::Zero => (StatusKind::Zero, true, None, false),
            Place::Absent if self.inner.backing.is_some() => (StatusKind::Data, false, None, false),
            Place::Absent => (StatusKind::Zero, false, None, false),
        };
        Ok(Status { length: run.length as u64, kind, is_here, file_offset, is_compressed })
    }

    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        let _ = (length, preallocation);
        Err(Error::Unsupported("Image format driver does not support resize".into()))
    }

    async fn compress(&self, plain: IoVector) -> Result<Option<Vec<u8>>, Error> {
        let mut data = plain.to_vec();
        data.resize(self.layout().block_size() as usize, 0);
        self.layout().compress(data).await
    }

    async fn write_compressed(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let compressed = self.compress(from.clone()).await?;
        self.write_as_compressed(offset, from, compressed).await
    }

    async fn write_as_compressed(&self, offset: u64, from: IoVector, compressed: Option<Vec<u8>>) -> Result<(), Error> {
        let Some(compressed) = compressed else { return self.write(offset, from).await };
        self.begin_change(offset, from.len() as u64).await?;
        let size = self.layout().block_size();
        let block = offset / size;
        let is_whole = from.len() as u64 == (self.layout().length() - offset).min(size);
        if !offset.is_multiple_of(size) || !is_whole {
            let text =
                format!("compressed data is written in whole blocks of {size} bytes, not {} at {offset}", from.len());
            return Err(Error::Unsupported(text));
        }
        let _turn = self.allocating.exclusive(offset..offset + size).await;
        if let Place::At(_) | Place::Packed(..) = self.layout().find(block).await? {
            return Err(Error::Unsupported(format!("the bytes at {offset} are written already")));
        }
        let (at, packed, place) = self.layout().pack(block, compressed).await?;
        self.file().write_bytes(at, &packed).await?;
        self.layout().set(block, place).await?;
        self.write_back_if_full().await
    }

    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        let file = (Role::File, self.inner.file.clone());
        let backing = self.inner.backing.node().map(|backing| (Role::Backing, backing));
        [file].into_iter().chain(backing).collect()
    }
    fn edge(&self, role: Role) -> Option<&Edge> {
        (role == Role::Backing).then_some(&self.inner.backing)
    }

    async fn close(&self) -> Result<(), Error> {
        if self.is_read_only() {
            return Ok(());
        }
        self.flush().await?;
        self.layout().close().await
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
