//! A node of the graph.

use std::sync::Arc;

use crate::check::{CheckResult, Repair, Report};
use crate::driver::{Driver, Preallocation, Status, StatusKind, ZeroFlags, Zeroed};
use crate::range_lock::RangeLock;
use crate::{Error, IoVector};

/// Most bytes of zeros that are written by one request, where they must be written.
const ZEROS: usize = 1 << 20;

/// Most bytes that are copied to memory that a driver can use.
const BOUNCE: usize = 1 << 20;

/// A named disk of bytes: a [`Driver`], and what is the same for all of them.
///
/// Requests take any offset and length; the node makes requests of them that the driver can serve. What lies behind the end reads as
/// zeros. Whether a request lies within the disk is checked by [`crate::Backend`], which users have.
pub struct Node {
    name: String,
    driver: Box<dyn Driver>,
    /// Writes, where some of them are of parts of what the driver writes at once.
    writes: RangeLock,
}

impl Node {
    /// A node for a driver.
    pub fn new(name: impl Into<String>, driver: impl Driver) -> Arc<Node> {
        Node::of(name, Box::new(driver))
    }

    /// A node for a driver of a type that is found out only when it is made.
    pub fn of(name: impl Into<String>, driver: Box<dyn Driver>) -> Arc<Node> {
        Arc::new(Node { name: name.into(), driver, writes: RangeLock::default() })
    }

    /// Its name, the only one in its graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What makes its bytes.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// The driver, if it is of this type.
    pub fn driver_as<D: Driver>(&self) -> Option<&D> {
        self.driver.as_any().downcast_ref()
    }

    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.driver.length()
    }

    /// True if writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.driver.is_read_only()
    }

    fn check_writable(&self) -> Result<(), Error> {
        if self.is_read_only() { Err(Error::ReadOnly) } else { Ok(()) }
    }

    /// Fills `to` with the bytes from `offset` on.
    pub async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let alignment = self.driver.alignment();
        if to.is_empty() {
            return Ok(());
        }
        if is_aligned(offset, &to, alignment) {
            return self.driver.read(offset, to).await;
        }
        let mut done = 0;
        while done < to.len() {
            let part = to.slice(done, (to.len() - done).min(BOUNCE));
            let at = offset + done as u64;
            let (start, length) = widen(at, part.len(), alignment);
            let whole = IoVector::zeroed(length);
            self.driver.read(start, whole.clone()).await?;
            part.copy_from_vector(&whole.slice((at - start) as usize, part.len()));
            done += part.len();
        }
        Ok(())
    }

    /// Writes `from` at `offset`.
    pub async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.check_writable()?;
        if from.is_empty() {
            return Ok(());
        }
        let alignment = self.driver.alignment();
        if alignment == 1 {
            return self.driver.write(offset, from).await;
        }
        if is_aligned(offset, &from, alignment) {
            let _turn = self.writes.shared(offset..offset.saturating_add(from.len() as u64)).await;
            return self.driver.write(offset, from).await;
        }
        let mut done = 0;
        while done < from.len() {
            let part = from.slice(done, (from.len() - done).min(BOUNCE));
            self.write_unaligned(offset + done as u64, &part, alignment).await?;
            done += part.len();
        }
        Ok(())
    }

    /// Writes a part of what the driver writes at once, with what is around it.
    async fn write_unaligned(&self, offset: u64, from: &IoVector, alignment: usize) -> Result<(), Error> {
        let (start, length) = widen(offset, from.len(), alignment);
        let _turn = self.writes.exclusive(start..start.saturating_add(length as u64)).await;
        let whole = IoVector::zeroed(length);
        let end = offset + from.len() as u64;
        if !offset.is_multiple_of(alignment as u64) {
            self.driver.read(start, whole.slice(0, alignment)).await?;
        }
        if !end.is_multiple_of(alignment as u64) {
            let last = length - alignment;
            self.driver.read(start + last as u64, whole.slice(last, alignment)).await?;
        }
        whole.slice((offset - start) as usize, from.len()).copy_from_vector(from);
        self.driver.write(start, whole).await
    }

    /// Makes `length` bytes from `offset` on zero.
    pub async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<(), Error> {
        self.check_writable()?;
        if length == 0 {
            return Ok(());
        }
        let alignment = self.driver.alignment() as u64;
        if offset.is_multiple_of(alignment)
            && length.is_multiple_of(alignment)
            && self.driver.write_zeroes(offset, length, flags).await? == Zeroed::Done
        {
            return Ok(());
        }
        if flags.contains(ZeroFlags::NO_FALLBACK) {
            let name = self.driver.name();
            return Err(Error::Unsupported(format!("driver '{name}' has no better way here than to write zeros")));
        }
        let zeros = IoVector::zeroed(length.min(ZEROS as u64) as usize);
        let mut done = 0;
        while done < length {
            let part = (length - done).min(ZEROS as u64);
            self.write(offset + done, zeros.slice(0, part as usize)).await?;
            done += part;
        }
        Ok(())
    }

    /// Tells that nobody needs `length` bytes from `offset` on.
    pub async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.check_writable()?;
        let alignment = self.driver.alignment() as u64;
        let start = offset.next_multiple_of(alignment);
        let end = offset.saturating_add(length) / alignment * alignment;
        if start >= end { Ok(()) } else { self.driver.discard(start, end - start).await }
    }

    /// Returns once everything that was written before is on stable storage.
    pub async fn flush(&self) -> Result<(), Error> {
        if self.is_read_only() { Ok(()) } else { self.driver.flush().await }
    }

    /// What is known of the bytes from `offset` on: of at least one, at most `length`, and none behind the end of the disk.
    ///
    /// Behind the end it answers that there are zeros.
    pub async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let left = self.length().saturating_sub(offset).min(length);
        if left == 0 {
            let kind = StatusKind::Zero;
            return Ok(Status { length, kind, is_here: true, file_offset: None, is_compressed: false });
        }
        self.driver.status(offset, left).await
    }

    /// Makes the disk so long. What is new reads as zeros.
    pub async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        self.check_writable()?;
        self.driver.truncate(length, preallocation).await
    }

    /// Writes `from`, a whole cluster or the last part of the disk, in compressed form.
    pub async fn write_compressed(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.check_writable()?;
        self.driver.write_compressed(offset, from).await
    }

    /// The compressed form of `plain`, a whole cluster or the last part of the disk, for [`Node::write_as_compressed`].
    pub async fn compress(&self, plain: IoVector) -> Result<Option<Vec<u8>>, Error> {
        self.driver.compress(plain).await
    }

    /// [`Node::write_compressed`], with what [`Node::compress`] said of `from`.
    pub async fn write_as_compressed(
        &self,
        offset: u64,
        from: IoVector,
        compressed: Option<Vec<u8>>,
    ) -> Result<(), Error> {
        self.check_writable()?;
        self.driver.write_as_compressed(offset, from, compressed).await
    }

    /// Names another image by name and format, or none, as the one behind: only what is stored changes.
    pub async fn change_backing(&self, backing: Option<(&str, Option<&str>)>) -> Result<(), Error> {
        self.check_writable()?;
        self.driver.change_backing(backing).await
    }

    /// Gives up everything that the image has itself: what is behind it comes forth everywhere.
    pub async fn make_empty(&self) -> Result<(), Error> {
        self.check_writable()?;
        self.driver.make_empty().await
    }

    /// Checks the image's metadata, tells of each problem in a line, and repairs what is wanted.
    pub async fn check(&self, repair: Repair, report: Report<'_>) -> Result<CheckResult, Error> {
        if repair != Repair::Nothing {
            self.check_writable()?;
        }
        self.driver.check(repair, report).await
    }

    /// Is told what the driver above does ([`Driver::event`]).
    pub fn event(&self, event: crate::filters::BlkdebugEvent) {
        self.driver.event(event);
    }

    /// The bytes from `offset` on.
    pub async fn read_vec(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let to = IoVector::zeroed(length);
        self.read(offset, to.clone()).await?;
        Ok(to.to_vec())
    }

    /// Writes a copy of these bytes.
    pub async fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.write(offset, IoVector::copy_of(bytes)).await
    }

    /// Leaves what is stored as who opens it next expects it, here and in the nodes below.
    pub async fn close(&self) -> Result<(), Error> {
        let mut first = self.driver.close().await;
        for (_, child) in self.driver.children() {
            let closed = Box::pin(child.close()).await;
            first = first.and(closed);
        }
        first
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Node({}, {})", self.name, self.driver.name())
    }
}

fn is_aligned(offset: u64, memory: &IoVector, alignment: usize) -> bool {
    offset.is_multiple_of(alignment as u64) && memory.is_aligned(alignment)
}

/// Where the smallest stretch of whole `alignment`s begins that has `length` bytes at `offset`, and how long it is.
fn widen(offset: u64, length: usize, alignment: usize) -> (u64, usize) {
    let start = offset / alignment as u64 * alignment as u64;
    let before = (offset - start) as usize;
    (start, (before + length).next_multiple_of(alignment))
}
