//! The `raw` format: the bytes of the file, or of a part of it, are the disk's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use crate::driver::{Driver, Preallocation, Role, Status, ZeroFlags, Zeroed};
use crate::filters::BlkdebugEvent;
use crate::{Edge, Error, Format, IoVector, Node};

/// Bytes at the beginning that decide what an image is taken for.
const BEGINNING: u64 = 512;
/// What the length of a part must be a multiple of, bytes.
const SECTOR: u64 = 512;

/// QEMU's `BlockdevOptionsRaw`: the part of the file that the disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawOptions {
    /// Where the disk begins in the file, bytes; 0 if it is not given.
    pub offset: u64,
    /// Length of the disk, bytes: a multiple of 512. If it is not given, the disk ends where the file does.
    pub size: Option<u64>,
}

/// An image that is nothing but the disk.
pub struct Raw {
    file: Edge,
    part: RawOptions,
    /// Nobody said that it is raw: it did not look like anything else.
    is_guessed: bool,
    /// Writes are refused, though the file could take them.
    is_read_only: AtomicBool,
    /// Held while the beginning is checked and written: two writes may be harmless only one without the other.
    beginning: tokio::sync::Mutex<()>,
}

impl Raw {
    /// The image in a file.
    pub fn new(file: Arc<Node>) -> Raw {
        Raw {
            file: Edge::new(Some(file)),
            part: RawOptions::default(),
            is_guessed: false,
            is_read_only: AtomicBool::new(false),
            beginning: tokio::sync::Mutex::default(),
        }
    }

    fn file(&self) -> Result<Arc<Node>, Error> {
        self.file.node().ok_or(Error::NoMedium)
    }

    /// The image in a part of a file.
    pub fn part(options: RawOptions, file: Arc<Node>) -> Result<Raw, Error> {
        let (RawOptions { offset, size }, length) = (options, file.length());
        let refused = |text: String| Err(Error::Unsupported(text));
        if offset > length {
            return refused(format!("Offset ({offset}) cannot be greater than size of the containing file ({length})"));
        }
        if let Some(size) = size.filter(|size| *size > length - offset) {
            return refused(format!(
                "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  actual size of the \
                 containing file ({length})"
            ));
        }
        if size.is_some_and(|size| !size.is_multiple_of(SECTOR)) {
            return refused(format!("Specified size is not multiple of {SECTOR}"));
        }
        Ok(Raw { part: options, ..Raw::new(file) })
    }

    /// The image in a file that does not look like another format. It never will: a guest that wrote the beginning of one could have files
    /// of the host opened next time.
    pub fn guessed(file: Arc<Node>) -> Raw {
        Raw { is_guessed: true, ..Raw::new(file) }
    }

    /// What the user should know of this image.
    pub fn warning(&self, name: &str) -> Option<String> {
        (self.is_guessed && !self.is_read_only()).then(|| {
            format!(
                "Image format was not specified for '{name}' and probing guessed raw.\n         \
                 Automatically detecting the format is dangerous for raw images, write operations on block 0 will be \
                 restricted.\n         Specify the 'raw' format explicitly to remove the restrictions."
            )
        })
    }

    /// How many of `length` bytes at an offset are of the beginning, and must be checked.
    fn checked(&self, offset: u64, length: u64) -> u64 {
        if self.is_guessed { BEGINNING.saturating_sub(offset).min(length) } else { 0 }
    }

    /// Refuses to make the image look like one of another format. These bytes are to be written before the answer is dropped.
    async fn check_beginning(&self, offset: u64, bytes: &[u8]) -> Result<tokio::sync::MutexGuard<'_, ()>, Error> {
        let turn = self.beginning.lock().await;
        let mut beginning = self.file()?.read_vec(0, BEGINNING as usize).await?;
        beginning[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        match Format::probe_bytes(&beginning) {
            Format::Raw => Ok(turn),
            _ => Err(Error::host("write", std::io::Error::from_raw_os_error(libc::EPERM))),
        }
    }

    /// Where a stretch of the disk is in the file.
    fn place(&self, offset: u64, length: u64) -> Result<u64, Error> {
        let disk = self.part.size.unwrap_or(u64::MAX - self.part.offset);
        match offset.checked_add(length) {
            Some(end) if end <= disk => Ok(self.part.offset + offset),
            _ => Err(Error::OutOfBounds { offset, length, disk }),
        }
    }
}

#[async_trait]
impl Driver for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }
    fn length(&self) -> u64 {
        let rest = || self.file.node().map_or(0, |file| file.length().saturating_sub(self.part.offset));
        self.part.size.unwrap_or_else(rest)
    }
    fn is_filter(&self) -> bool {
        true
    }
    fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Acquire) || self.file.node().is_none_or(|file| file.is_read_only())
    }
    fn can_set_read_only(&self) -> bool {
        true
    }
    async fn set_read_only(&self, read_only: bool) -> Result<(), Error> {
        self.is_read_only.store(read_only, Ordering::Release);
        Ok(())
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let to = match self.part.size {
            None => to,
            // Behind the end of a part of a file may be something else.
            Some(size) => {
                let inside = size.saturating_sub(offset).min(to.len() as u64) as usize;
                to.slice(inside, to.len() - inside).fill(0);
                to.slice(0, inside)
            }
        };
        if to.is_empty() {
            return Ok(());
        }
        self.file()?.event(BlkdebugEvent::ReadAio);
        self.file()?.read(self.place(offset, to.len() as u64)?, to).await
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let (place, file) = (self.place(offset, from.len() as u64)?, self.file()?);
        let checked = self.checked(offset, from.len() as u64) as usize;
        if checked == 0 {
            file.event(BlkdebugEvent::WriteAio);
            return file.write(place, from).await;
        }
        // What is checked is what is written: the guest may change its memory meanwhile.
        let bytes = from.slice(0, checked).to_vec();
        let _turn = self.check_beginning(offset, &bytes).await?;
        let mut copy = IoVector::copy_of(&bytes);
        copy.append(from.slice(checked, from.len() - checked));
        file.event(BlkdebugEvent::WriteAio);
        file.write(place, copy).await
    }
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        let checked = self.checked(offset, length);
        let zeros = vec![0; checked as usize];
        let _turn = if checked > 0 { Some(self.check_beginning(offset, &zeros).await?) } else { None };
        self.file()?.write_zeroes(self.place(offset, length)?, length, flags).await.map(|()| Zeroed::Done)
    }
    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        // It may be zeros afterwards, or not.
        let checked = self.checked(offset, length);
        let (start, length) = (offset + checked, length - checked);
        self.file()?.discard(self.place(start, length)?, length).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.file()?.event(BlkdebugEvent::FlushToOs);
        self.file()?.event(BlkdebugEvent::FlushToDisk);
        self.file()?.flush().await
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let place = self.place(offset, length)?;
        let status = self.file()?.status(place, length).await?;
        Ok(Status { file_offset: Some(place), ..status })
    }
    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        if self.part.size.is_some() {
            return Err(Error::Unsupported("Cannot resize fixed-size raw disks".into()));
        }
        let Some(length) = length.checked_add(self.part.offset).filter(|end| i64::try_from(*end).is_ok()) else {
            return Err(Error::Unsupported("Disk size too large for the chosen offset".into()));
        };
        self.file()?.truncate(length, preallocation).await
    }
    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        self.file.node().map(|file| (Role::File, file)).into_iter().collect()
    }
    fn edge(&self, role: Role) -> Option<&Edge> {
        (role == Role::File).then_some(&self.file)
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;
    use crate::MemoryDisk;

    #[test]
    fn a_guest_cannot_make_its_disk_look_like_another_format() {
        for is_guessed in [true, false] {
            let file = Node::new("file", MemoryDisk::new(vec![0; 4096], false));
            let raw = if is_guessed { Raw::guessed(file) } else { Raw::new(file) };
            assert_eq!(raw.warning("disk").is_some(), is_guessed);
            let disk = Node::new("disk", raw);
            block_on(async {
                disk.write_bytes(0, b"anything").await.unwrap();
                disk.write_bytes(512, b"QFI\xfb\0\0\0\x03").await.unwrap();
                // In one piece, in two, and as a part of more.
                assert_eq!(disk.write_bytes(0, b"QFI\xfb\0\0\0\x03").await.is_err(), is_guessed);
                disk.write_bytes(4, b"\0\0\0\x03").await.unwrap_or_default();
                assert_eq!(disk.write_bytes(0, b"QFI\xfb").await.is_err(), is_guessed);
                assert_eq!(disk.write_bytes(0, &[b"KDMV\x01", &[0; 1000][..]].concat()).await.is_err(), is_guessed);
                let start = disk.read_vec(0, 3).await.unwrap();
                assert_eq!(start == b"any", is_guessed);
            });
        }
    }

    #[test]
    fn a_part_of_a_file_is_a_disk_and_nothing_else_is_touched() {
        let file = Node::new("file", MemoryDisk::new((0..4096_u32).map(|at| (at / 512) as u8).collect(), false));
        let part = |offset, size| Raw::part(RawOptions { offset, size }, file.clone());
        let disk = Node::new("disk", part(700, Some(1024)).unwrap());
        let open_end = Node::new("open end", part(4000, None).unwrap());
        block_on(async {
            assert_eq!(disk.length(), 1024);
            assert_eq!(disk.read_vec(323, 3).await.unwrap(), [1, 2, 2]);
            assert_eq!(disk.read_vec(1023, 3).await.unwrap(), [3, 0, 0]);
            assert_eq!(disk.status(10, 1000).await.unwrap().file_offset, Some(710));
            disk.write_bytes(1020, &[9; 4]).await.unwrap();
            assert!(matches!(disk.write_bytes(1020, &[9; 5]).await, Err(Error::OutOfBounds { .. })));
            assert!(disk.write_zeroes(u64::MAX - 10, 8, ZeroFlags::empty()).await.is_err());
            assert!(disk.discard(1024, 1).await.is_err());
            assert_eq!(file.read_vec(1719, 6).await.unwrap(), [3, 9, 9, 9, 9, 3]);
            let error = disk.truncate(512, Preallocation::Off).await.unwrap_err();
            assert_eq!(error.to_string(), "Cannot resize fixed-size raw disks");
            open_end.truncate(100, Preallocation::Off).await.unwrap();
            assert_eq!((open_end.length(), file.length()), (100, 4100));
            assert!(open_end.truncate(i64::MAX as u64, Preallocation::Off).await.is_err());
        });
    }

    #[test]
    fn parts_that_are_not_there_are_refused_as_qemu_does() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("disk"), vec![0; 4096]).unwrap();
        for (offset, size) in
            [(4097, None), (4096, None), (512, Some(4096)), (512, Some(100)), (1, Some(512)), (u64::MAX, Some(0))]
        {
            let file = Node::new("file", MemoryDisk::new(vec![0; 4096], false));
            let ours = match Raw::part(RawOptions { offset, size }, file) {
                Ok(_) => String::new(),
                Err(error) => format!("qemu-io: can't open: {error}\n"),
            };
            let size = size.map_or(String::new(), |size| format!(",size={size}"));
            let image = format!("driver=raw,offset={offset}{size},file.driver=file,file.filename=disk");
            let output = std::process::Command::new("qemu-io")
                .args(["--image-opts", &image, "-c", "length"])
                .current_dir(folder.path())
                .output();
            match output {
                Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stderr), ours, "{image}"),
                Err(_) => eprintln!("SKIPPED: parts_that_are_not_there_are_refused_as_qemu_does: no qemu-io"),
            }
        }
    }
}
