//! A node of the graph.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::check::{CheckResult, Repair, Report};
use crate::driver::{Driver, Preallocation, Role, Status, StatusKind, ZeroFlags, Zeroed};
use crate::range_lock::RangeLock;
use crate::{DirtyBitmap, Error, IoVector};

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
    // Lock order: alone.
    settings: RwLock<Settings>,
    /// The bitmaps that writes are marked in.
    // Lock order: before the bits of one.
    bitmaps: RwLock<Vec<Arc<DirtyBitmap>>>,
    /// End of the write that came furthest, bytes.
    highest_write: AtomicU64,
}

/// What the user wants of a node, whichever driver it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Discarded bytes give their room back (`discard=unmap`); otherwise nothing is done for them.
    pub discard: bool,
    /// What is done with zeros that are written as data.
    pub detect_zeroes: DetectZeroes,
    /// The host's cache is left out, as far as it was said of this node (`cache.direct`).
    pub direct: bool,
    /// Nothing is put on stable storage (`cache.no-flush`).
    pub no_flush: bool,
    /// Writes are refused, though the driver could.
    pub read_only: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { discard: true, detect_zeroes: DetectZeroes::Off, direct: false, no_flush: false, read_only: false }
    }
}

/// What is done with zeros that are written as data (`detect-zeroes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// They are written.
    #[default]
    Off,
    /// They become zeros in the way that the driver has for that.
    On,
    /// They do, and may give their room back.
    Unmap,
}

impl DetectZeroes {
    /// The choices, by name.
    pub const ALL: [(&str, DetectZeroes); 3] =
        [("off", DetectZeroes::Off), ("on", DetectZeroes::On), ("unmap", DetectZeroes::Unmap)];

    /// Its name.
    pub fn name(self) -> &'static str {
        DetectZeroes::ALL.into_iter().find(|(_, choice)| *choice == self).map_or("", |(name, _)| name)
    }
}

impl Node {
    /// A node for a driver.
    pub fn new(name: impl Into<String>, driver: impl Driver) -> Arc<Node> {
        Node::of(name, Box::new(driver))
    }

    /// A node for a driver of a type that is found out only when it is made.
    pub fn of(name: impl Into<String>, driver: Box<dyn Driver>) -> Arc<Node> {
        Node::with(name, driver, Settings::default())
    }

    /// A node for a driver, as the user wants it.
    pub fn with(name: impl Into<String>, driver: Box<dyn Driver>, settings: Settings) -> Arc<Node> {
        Arc::new(Node {
            name: name.into(),
            driver,
            writes: RangeLock::default(),
            settings: RwLock::new(settings),
            bitmaps: RwLock::default(),
            highest_write: AtomicU64::new(0),
        })
    }

    /// What the user wants of it.
    pub fn settings(&self) -> Settings {
        *self.settings.read()
    }

    /// The user wants something else of it from now on.
    pub(crate) fn set(&self, settings: Settings) {
        *self.settings.write() = settings;
    }

    /// End of the write that came furthest, bytes.
    pub fn highest_write(&self) -> u64 {
        self.highest_write.load(Ordering::Relaxed)
    }

    /// The bitmaps that writes are marked in.
    pub fn bitmaps(&self) -> Vec<Arc<DirtyBitmap>> {
        self.bitmaps.read().clone()
    }

    /// Marks writes in another bitmap from now on, whose name must be new.
    pub(crate) fn add_bitmap(
        &self,
        name: &str,
        granularity: u64,
        is_recording: bool,
    ) -> Result<Arc<DirtyBitmap>, Error> {
        let length = self.length();
        if DirtyBitmap::is_too_large(granularity, length) {
            let text = format!("a bit for each {granularity} bytes of {length} takes too much memory");
            return Err(Error::Option(text));
        }
        let mut bitmaps = self.bitmaps.write();
        if bitmaps.iter().any(|bitmap| bitmap.name() == Some(name)) {
            return Err(Error::Option(format!("Bitmap already exists: {name}")));
        }
        let bitmap = Arc::new(DirtyBitmap::new(Some(name), granularity, length));
        bitmap.set_recording(is_recording);
        bitmaps.push(bitmap.clone());
        Ok(bitmap)
    }

    /// Marks writes again in a bitmap that it had.
    pub(crate) fn put_bitmap(&self, bitmap: Arc<DirtyBitmap>) {
        self.bitmaps.write().push(bitmap);
    }

    /// Marks no more writes in a bitmap.
    pub(crate) fn remove_bitmap(&self, bitmap: &Arc<DirtyBitmap>) {
        self.bitmaps.write().retain(|other| !Arc::ptr_eq(other, bitmap));
    }

    /// The child that has this role.
    pub fn child(&self, role: Role) -> Option<Arc<Node>> {
        self.driver.children().into_iter().find(|(has, _)| *has == role).map(|(_, node)| node)
    }

    /// The node behind its image.
    pub fn backing(&self) -> Option<Arc<Node>> {
        self.child(Role::Backing)
    }

    /// What its image or file is called, as far as one name tells that.
    pub fn filename(&self) -> Option<String> {
        self.driver.filename().or_else(|| self.child(Role::File).and_then(|file| file.filename()))
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
        self.driver.is_read_only() || self.settings.read().read_only
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
        let length = from.len() as u64;
        let detect = self.settings.read().detect_zeroes;
        if detect != DetectZeroes::Off && from.is_zero() {
            let flags = if detect == DetectZeroes::Unmap { ZeroFlags::MAY_UNMAP } else { ZeroFlags::empty() };
            let flags = flags | ZeroFlags::NO_FALLBACK;
            match Box::pin(self.write_zeroes(offset, length, flags)).await {
                Err(Error::Unsupported(_)) => {}
                done => return done,
            }
        }
        let _change = Change { node: self, offset, length };
        self.write_data(offset, from).await
    }

    async fn write_data(&self, offset: u64, from: IoVector) -> Result<(), Error> {
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
        let flags = if self.settings.read().discard { flags } else { flags - ZeroFlags::MAY_UNMAP };
        let _change = Change { node: self, offset, length };
        self.make_zero(offset, length, flags).await
    }

    async fn make_zero(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<(), Error> {
        let alignment = self.driver.alignment() as u64;
        if offset.is_multiple_of(alignment) && length.is_multiple_of(alignment) {
            let turn = match alignment {
                1 => None,
                _ => Some(self.writes.shared(offset..offset.saturating_add(length)).await),
            };
            if self.driver.write_zeroes(offset, length, flags).await? == Zeroed::Done {
                return Ok(());
            }
            drop(turn);
        }
        if flags.contains(ZeroFlags::NO_FALLBACK) {
            let name = self.driver.name();
            return Err(Error::Unsupported(format!("driver '{name}' has no better way here than to write zeros")));
        }
        let zeros = IoVector::zeroed(length.min(ZEROS as u64) as usize);
        let mut done = 0;
        while done < length {
            let part = (length - done).min(ZEROS as u64);
            self.write_data(offset + done, zeros.slice(0, part as usize)).await?;
            done += part;
        }
        Ok(())
    }

    /// Tells that nobody needs `length` bytes from `offset` on.
    pub async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.check_writable()?;
        if !self.settings.read().discard {
            return Ok(());
        }
        let alignment = self.driver.alignment() as u64;
        let start = offset.next_multiple_of(alignment);
        let end = offset.saturating_add(length) / alignment * alignment;
        if start >= end {
            return Ok(());
        }
        let _change = Change { node: self, offset: start, length: end - start };
        self.driver.discard(start, end - start).await
    }

    /// Returns once everything that was written before is on stable storage.
    pub async fn flush(&self) -> Result<(), Error> {
        if self.is_read_only() || self.settings.read().no_flush { Ok(()) } else { self.driver.flush().await }
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
        let before = self.length();
        let is_too_large = |bitmap: &Arc<DirtyBitmap>| DirtyBitmap::is_too_large(bitmap.granularity(), length);
        if let Some(bitmap) = self.bitmaps.read().iter().find(|bitmap| is_too_large(bitmap)) {
            let name = bitmap.name().unwrap_or_default();
            return Err(Error::Unsupported(format!("bitmap '{name}' would take too much memory for {length} bytes")));
        }
        self.driver.truncate(length, preallocation).await?;
        for bitmap in &*self.bitmaps.read() {
            bitmap.resize(length);
        }
        if length > before {
            drop(Change { node: self, offset: before, length: length - before });
        }
        Ok(())
    }

    /// Writes `from`, a whole cluster or the last part of the disk, in compressed form.
    pub async fn write_compressed(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.check_writable()?;
        let _change = Change { node: self, offset, length: from.len() as u64 };
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
        let _change = Change { node: self, offset, length: from.len() as u64 };
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

/// A change of bytes that is under way. It is marked when it ends, in whichever way: one that was given up may have happened.
struct Change<'a> {
    node: &'a Node,
    offset: u64,
    length: u64,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let end = self.offset.saturating_add(self.length);
        self.node.highest_write.fetch_max(end, Ordering::Relaxed);
        for bitmap in &*self.node.bitmaps.read() {
            bitmap.mark_written(self.offset..end);
        }
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
