//! The `raw` format: the bytes of the file are the disk's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use crate::driver::{Driver, Preallocation, Role, Status, ZeroFlags, Zeroed};
use crate::{Edge, Error, Format, IoVector, Node};

/// Bytes at the beginning that decide what an image is taken for.
const BEGINNING: u64 = 512;

/// An image that is nothing but the disk.
pub struct Raw {
    file: Edge,
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
            is_guessed: false,
            is_read_only: AtomicBool::new(false),
            beginning: tokio::sync::Mutex::default(),
        }
    }

    fn file(&self) -> Result<Arc<Node>, Error> {
        self.file.node().ok_or(Error::NoMedium)
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
}

#[async_trait]
impl Driver for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }
    fn is_filter(&self) -> bool {
        true
    }
    fn length(&self) -> u64 {
        self.file.node().map_or(0, |file| file.length())
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
        self.file()?.read(offset, to).await
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let checked = self.checked(offset, from.len() as u64) as usize;
        if checked == 0 {
            return self.file()?.write(offset, from).await;
        }
        // What is checked is what is written: the guest may change its memory meanwhile.
        let bytes = from.slice(0, checked).to_vec();
        let _turn = self.check_beginning(offset, &bytes).await?;
        let mut copy = IoVector::copy_of(&bytes);
        copy.append(from.slice(checked, from.len() - checked));
        self.file()?.write(offset, copy).await
    }
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        let checked = self.checked(offset, length);
        let zeros = vec![0; checked as usize];
        let _turn = if checked > 0 { Some(self.check_beginning(offset, &zeros).await?) } else { None };
        self.file()?.write_zeroes(offset, length, flags).await.map(|()| Zeroed::Done)
    }
    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        // It may be zeros afterwards, or not.
        let start = offset + self.checked(offset, length);
        self.file()?.discard(start, length - (start - offset)).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.file()?.flush().await
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let status = self.file()?.status(offset, length).await?;
        Ok(Status { file_offset: Some(offset), ..status })
    }
    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
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

    /// A file whose requests take their time, during which the guest writes to its memory.
    struct Busy {
        disk: MemoryDisk,
        memory: IoVector,
    }

    #[async_trait]
    impl Driver for Busy {
        fn name(&self) -> &'static str {
            "busy"
        }
        fn length(&self) -> u64 {
            self.disk.length()
        }
        fn is_read_only(&self) -> bool {
            false
        }
        async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
            self.disk.read(offset, to).await
        }
        async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
            self.memory.copy_from(b"QFI\xfb\0\0\0\x03");
            self.disk.write(offset, from).await
        }
        async fn flush(&self) -> Result<(), Error> {
            Ok(())
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    #[test]
    fn a_guest_cannot_change_what_was_checked() {
        let memory = IoVector::copy_of(b"harmless");
        let busy = Busy { disk: MemoryDisk::new(vec![0; 4096], false), memory: memory.clone() };
        let disk = Node::new("disk", Raw::guessed(Node::new("file", busy)));
        block_on(disk.write(0, memory)).unwrap();
        assert_eq!(block_on(disk.read_vec(0, 8)).unwrap(), b"harmless");
    }

    #[test]
    fn zeros_and_what_is_given_up_can_be_a_part_of_a_beginning_too() {
        let file = Node::new("file", MemoryDisk::new(vec![0; 4096], false));
        let disk = Node::new("disk", Raw::guessed(file));
        block_on(async {
            disk.write_bytes(0, b"QFI\xfb\x01\0\0\x03").await.unwrap();
            assert!(disk.write_zeroes(4, 1, ZeroFlags::empty()).await.is_err());
            disk.discard(4, 1000).await.unwrap();
            assert_eq!(disk.read_vec(0, 8).await.unwrap(), b"QFI\xfb\x01\0\0\x03");
            disk.write_zeroes(0, 4096, ZeroFlags::empty()).await.unwrap();
            assert_eq!(disk.read_vec(0, 8).await.unwrap(), [0; 8]);
        });
    }

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
}
