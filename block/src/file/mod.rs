//! The `file` protocol: a file or block device of the host.

mod device;
mod lock;
mod pool;
mod ring;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use parking_lot::RwLock;
use rustix::fs::{AtFlags, FallocateFlags, SeekFrom as Seeked, StatxFlags, fallocate, ftruncate, seek, statx};

use crate::driver::{Driver, Preallocation, Status, StatusKind, ZeroFlags, Zeroed};
use crate::{Error, IoVector, host_words};

/// What direct access asks for where the host does not say.
const DIRECT_ALIGNMENT: usize = 4096;
/// Bytes that are written at once to make room.
const FILL: u64 = 1 << 20;

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileOptions {
    /// Which driver was asked for.
    pub kind: HostKind,
    /// Refuses writes.
    pub read_only: bool,
    /// Goes past the host's cache (`cache.direct`).
    pub direct: bool,
    /// Which way requests take.
    pub engine: Engine,
    /// Nothing is ever put on stable storage (`cache.no-flush`): a crash of the host may lose everything.
    pub no_flush: bool,
    /// How the file is locked against other users.
    pub sharing: Sharing,
}

/// Which of the host's files a driver is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostKind {
    /// Any of them: it has the driver that is for it.
    #[default]
    Any,
    /// Regular files (`file`).
    File,
    /// Devices (`host_device`).
    Device,
    /// Devices with media that may be changed (`host_cdrom`).
    Cdrom,
}

/// What a user of an image lets others do with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// They may read it.
    #[default]
    Readers,
    /// They may also change it, whatever this user then sees (`force-share`).
    Everyone,
    /// Nobody is asked, and nobody is told (`locking=off`).
    Unlocked,
}

/// Which way requests to a file take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// io_uring where the kernel offers it, or else threads.
    #[default]
    Automatic,
    /// A pool of threads (`aio=threads`).
    Threads,
    /// io_uring (`aio=io_uring`).
    IoUring,
}

/// A file or block device of the host.
pub struct HostFile {
    /// The open file; another one once writes are to be refused, or allowed.
    // Lock order: alone.
    file: RwLock<Arc<File>>,
    /// The name that it was opened by.
    path: Option<PathBuf>,
    /// Requests go by io_uring.
    by_ring: bool,
    length: AtomicU64,
    read_only: AtomicBool,
    sharing: Sharing,
    direct: bool,
    alignment: usize,
    /// It is a block device.
    is_device: bool,
    kind: HostKind,
    no_flush: bool,
    /// The file system cannot punch holes.
    no_holes: AtomicBool,
    /// The file system cannot make ranges zero.
    no_zeroes: AtomicBool,
}

/// A transfer between a file and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    Read,
    Write,
}

impl Transfer {
    fn verb(self) -> &'static str {
        match self {
            Transfer::Read => "read",
            Transfer::Write => "write",
        }
    }
}

impl HostFile {
    /// Opens a file that exists. Its length is that of the file, or of the block device.
    pub fn open(path: &Path, options: FileOptions) -> Result<HostFile, Error> {
        let failed = |why: String| Error::Open { name: path.display().to_string(), why };
        let host = |error: io::Error| failed(host_words(&error));
        if let Some(why) = options.kind.refusal(path) {
            return Err(Error::Unsupported(why));
        }
        // To open one may take for ever.
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            return Err(failed("it is a FIFO, which has no bytes at any place".into()));
        }
        let file = open_file(path, options).map_err(host)?;
        if options.sharing != Sharing::Unlocked {
            let is_shared = options.sharing == Sharing::Everyone;
            let name = path.display().to_string();
            lock::lock(&file, &name, !options.read_only, is_shared).map_err(|error| failed(error.to_string()))?;
        }
        let mut file = HostFile::from_file(file, options).map_err(host)?;
        file.path = Some(path.to_owned());
        Ok(file)
    }

    /// The name that it was opened by.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The protocol over a file that is open already.
    pub fn from_file(mut file: File, options: FileOptions) -> io::Result<HostFile> {
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        let length = match () {
            () if kind.is_block_device() => device::length(&file)?,
            // Devices of characters have none.
            () if kind.is_char_device() => file.seek(SeekFrom::End(0)).unwrap_or(0),
            () => file.seek(SeekFrom::End(0))?,
        };
        let by_ring = match options.engine {
            Engine::Threads => false,
            Engine::Automatic => ring::Ring::get().is_ok(),
            Engine::IoUring => ring::Ring::get().map(|_| true)?,
        };
        let alignment = match options.direct {
            false => 1,
            true if kind.is_block_device() => device::alignment(&file).unwrap_or(DIRECT_ALIGNMENT),
            true => direct_alignment(&file),
        };
        Ok(HostFile {
            file: RwLock::new(Arc::new(file)),
            path: None,
            no_flush: options.no_flush,
            by_ring,
            length: AtomicU64::new(length),
            read_only: AtomicBool::new(options.read_only),
            sharing: options.sharing,
            direct: options.direct,
            alignment,
            is_device: kind.is_block_device(),
            kind: options.kind,
            no_holes: AtomicBool::new(false),
            no_zeroes: AtomicBool::new(false),
        })
    }

    /// What it takes on the host's file system, bytes; `None` where the host does not say, as of block devices.
    pub fn room(&self) -> Option<u64> {
        let metadata = self.file().metadata().ok()?;
        // POSIX counts in this.
        metadata.is_file().then(|| metadata.blocks() * 512)
    }

    fn file(&self) -> Arc<File> {
        self.file.read().clone()
    }

    /// The same for each name of a file: device and inode.
    pub fn identity(&self) -> (u64, u64) {
        self.file().metadata().map(|metadata| (metadata.dev(), metadata.ino())).unwrap_or_default()
    }

    /// Moves all of `memory`. What lies behind the end of the file reads as zeros.
    async fn transfer(&self, transfer: Transfer, offset: u64, memory: IoVector) -> Result<(), Error> {
        let (length, mut done) = (memory.len(), 0);
        let file = self.file();
        while done < length {
            let (at, rest) = (offset + done as u64, memory.slice(done, length - done));
            let ring = if self.by_ring { ring::Ring::get().ok() } else { None };
            let moved = match ring {
                Some(ring) => ring.transfer(&file, transfer, at, rest.clone()).await,
                None => pool::transfer(&file, transfer, at, rest.clone()).await,
            };
            match moved {
                Ok(0) if transfer == Transfer::Read => {
                    rest.fill(0);
                    break;
                }
                Ok(0) => return Err(Error::host("write", io::Error::from(io::ErrorKind::WriteZero))),
                Ok(moved) => done += moved,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::host(transfer.verb(), error)),
            }
        }
        Ok(())
    }

    /// Does what may wait on a thread for that.
    async fn on_thread<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let file = self.file();
        blocking::unblock(move || work(&file)).await.map_err(|error| Error::host(operation, error))
    }

    /// Has the host's file system do something to a range; false if it cannot.
    async fn allocate(
        &self,
        operation: &'static str,
        unable: &AtomicBool,
        flags: FallocateFlags,
        offset: u64,
        length: u64,
    ) -> Result<bool, Error> {
        if unable.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let done = self.on_thread(operation, move |file| match fallocate(file, flags, offset, length) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::NODEV) => Ok(false),
            Err(error) => Err(error.into()),
        });
        let done = done.await?;
        if !done {
            unable.store(true, Ordering::Relaxed);
        }
        Ok(done)
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        // A thread may hold the file for a moment longer.
        lock::unlock(&self.file());
    }
}

#[async_trait]
impl Driver for HostFile {
    fn name(&self) -> &'static str {
        match self.kind {
            HostKind::Cdrom => "host_cdrom",
            HostKind::Any if !self.is_device => "file",
            HostKind::File => "file",
            HostKind::Any | HostKind::Device => "host_device",
        }
    }
    fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }
    fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }
    fn filename(&self) -> Option<String> {
        self.path.as_ref().map(|path| path.display().to_string())
    }

    fn can_set_read_only(&self) -> bool {
        true
    }

    async fn set_read_only(&self, read_only: bool) -> Result<(), Error> {
        if self.is_read_only() == read_only {
            return Ok(());
        }
        let old = self.file();
        let sharing = self.sharing;
        let options = FileOptions { read_only, direct: self.direct, kind: self.kind, ..FileOptions::default() };
        let name = self.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let opened = blocking::unblock(move || -> Result<File, String> {
            if read_only {
                old.sync_data().map_err(|error| host_words(&error))?;
            }
            // The same file, whatever its name means by now.
            let same = PathBuf::from(format!("/proc/self/fd/{}", number(&old)));
            let new = open_file(&same, options).map_err(|error| host_words(&error))?;
            if sharing != Sharing::Unlocked {
                // The locks of the one would stand against those of the other.
                let is_shared = sharing == Sharing::Everyone;
                lock::unlock(&old);
                if let Err(error) = lock::lock(&new, &name, !read_only, is_shared) {
                    // It was locked so a moment ago.
                    let _ = lock::lock(&old, &name, read_only, is_shared);
                    return Err(error.to_string());
                }
            }
            Ok(new)
        });
        let why = |why| Error::Open { name: self.filename().unwrap_or_default(), why };
        *self.file.write() = Arc::new(opened.await.map_err(why)?);
        self.read_only.store(read_only, Ordering::Release);
        Ok(())
    }
    fn alignment(&self) -> usize {
        self.alignment
    }

    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        self.transfer(Transfer::Read, offset, to).await
    }

    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let end = offset.saturating_add(from.len() as u64);
        // From now on, as the host may write a part of it also where it fails or is given up.
        self.length.fetch_max(end, Ordering::AcqRel);
        self.transfer(Transfer::Write, offset, from).await?;
        // The length may have been changed meanwhile.
        self.length.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        let end = offset.saturating_add(length);
        // A hole behind the end would not make the file longer.
        let done = (flags.contains(ZeroFlags::MAY_UNMAP)
            && end <= self.length()
            && self
                .allocate(
                    "punch a hole",
                    &self.no_holes,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    offset,
                    length,
                )
                .await?)
            || self.allocate("make zero", &self.no_zeroes, FallocateFlags::ZERO_RANGE, offset, length).await?;
        if !done {
            return Ok(Zeroed::NotBuilt);
        }
        self.length.fetch_max(end, Ordering::AcqRel);
        Ok(Zeroed::Done)
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        if self.is_device {
            return self.on_thread("discard", move |file| device::discard(file, offset, length)).await;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.allocate("punch a hole", &self.no_holes, flags, offset, length).await.map(|_| ())
    }

    async fn flush(&self) -> Result<(), Error> {
        if self.no_flush {
            return Ok(());
        }
        self.on_thread("flush", File::sync_data).await
    }

    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let status =
            |length, kind| Ok(Status { length, kind, is_here: true, file_offset: Some(offset), is_compressed: false });
        let found = self.on_thread("look for holes", move |file| {
            match seek(file, Seeked::Data(offset)) {
                Ok(data) if data > offset => return Ok(Some((data - offset, StatusKind::Zero))),
                Ok(_) => {}
                // Nothing but a hole up to the end.
                Err(rustix::io::Errno::NXIO) => return Ok(Some((length, StatusKind::Zero))),
                // The file system does not know.
                Err(_) => return Ok(None),
            }
            Ok(seek(file, Seeked::Hole(offset)).ok().map(|hole| (hole.saturating_sub(offset), StatusKind::Data)))
        });
        match found.await? {
            Some((found, kind)) if found > 0 => status(found.min(length), kind),
            _ => status(length, StatusKind::Data),
        }
    }

    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        let before = self.length();
        if self.is_device {
            let enough = length <= before;
            let text = || format!("the device has {before} bytes and cannot have {length}");
            return if enough { Ok(()) } else { Err(Error::Unsupported(text())) };
        }
        if preallocation != Preallocation::Off && length < before {
            return Err(Error::Unsupported("Preallocation can't be used for shrinking files".into()));
        }
        let done = self.on_thread("change the length", move |file| {
            match preallocation {
                Preallocation::Metadata => {
                    let text = "'metadata' is no preallocation of a file; valid are off, falloc and full";
                    return Err(io::Error::other(text));
                }
                Preallocation::Falloc if length > before => {
                    fallocate(file, FallocateFlags::empty(), before, length - before)?;
                }
                Preallocation::Full => {
                    let zeros = vec![0; FILL.min(length - before) as usize];
                    let mut at = before;
                    while at < length {
                        let part = (length - at).min(FILL);
                        std::os::unix::fs::FileExt::write_all_at(file, &zeros[..part as usize], at)?;
                        at += part;
                    }
                    file.sync_data()?;
                }
                Preallocation::Off | Preallocation::Falloc => {}
            }
            Ok(ftruncate(file, length)?)
        });
        if let Err(error) = done.await {
            // What was begun is taken back.
            let _ = self.on_thread("change the length", move |file| Ok(ftruncate(file, before)?)).await;
            return Err(error);
        }
        self.length.store(length, Ordering::Release);
        Ok(())
    }

    async fn close(&self) -> Result<(), Error> {
        let flushed = if self.is_read_only() { Ok(()) } else { self.flush().await };
        // Who opens it next may do so now, whoever still holds this node.
        lock::unlock(&self.file());
        flushed
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Opens a file that exists.
fn open_file(path: &Path, options: FileOptions) -> io::Result<File> {
    let mut flags = if options.direct { libc::O_DIRECT } else { 0 };
    if options.kind == HostKind::Cdrom {
        // Also where there is no medium.
        flags |= libc::O_NONBLOCK;
    }
    File::options().read(true).write(!options.read_only).custom_flags(flags).open(path)
}

/// What direct access to a file asks for, bytes.
fn direct_alignment(file: &File) -> usize {
    let asked = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let told = asked.filter(|told| told.stx_mask & StatxFlags::DIOALIGN.bits() != 0);
    let alignment = told.map_or(0, |told| told.stx_dio_offset_align.max(told.stx_dio_mem_align) as usize);
    if alignment.is_power_of_two() { alignment.max(512) } else { DIRECT_ALIGNMENT }
}

/// The file's number, for the kernel.
fn number(file: &File) -> i32 {
    file.as_raw_fd()
}
