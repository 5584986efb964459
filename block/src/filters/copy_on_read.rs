//! The `copy-on-read` filter: what is read from behind an image is written into it, so that it is there next time.

use std::sync::Arc;

use async_trait::async_trait;

use super::{BlkdebugEvent, status_through};
use crate::driver::{Driver, Preallocation, Role, Status, ZeroFlags, Zeroed};
use crate::operations::resolve;
use crate::range_lock::RangeLock;
use crate::{Error, IoVector, Node};

/// Most bytes that are copied at once.
const AT_ONCE: u64 = 1 << 20;

/// QEMU's `BlockdevOptionsCor`.
#[derive(Clone, Debug, Default)]
pub struct CopyOnReadOptions {
    /// The last image of the chain from which data is copied (`bottom`); what comes from behind it is only read. If there is none, which is
    /// the default, everything is copied.
    pub bottom: Option<Arc<Node>>,
}

/// A disk whose image gets what is read from behind it.
pub struct CopyOnRead {
    file: Arc<Node>,
    options: CopyOnReadOptions,
    /// Who copies has the clusters alone: what a guest writes meanwhile must not be lost.
    requests: RangeLock,
}

impl CopyOnRead {
    /// The disk of `file`, an image that can be written.
    pub fn new(options: CopyOnReadOptions, file: Arc<Node>) -> Result<CopyOnRead, Error> {
        if file.is_read_only() {
            return Err(Error::Unsupported("Block node is read-only".into()));
        }
        Ok(CopyOnRead { file, options, requests: RangeLock::default() })
    }

    /// The whole clusters that a stretch lies in.
    fn clusters(&self, offset: u64, length: u64) -> (u64, u64) {
        let cluster = self.cluster_size().max(1);
        let end = offset.saturating_add(length);
        (offset / cluster * cluster, end.checked_next_multiple_of(cluster).unwrap_or(end))
    }

    /// The part of the disk that a change of it touches, for others to keep off.
    async fn changing(&self, offset: u64, length: u64) -> crate::range_lock::RangeGuard<'_> {
        let (start, end) = self.clusters(offset, length);
        self.requests.shared(start..end).await
    }

    /// For how many bytes from `offset` on it is the same whether they are to be copied, and whether they are.
    async fn must_copy(&self, offset: u64, length: u64) -> Result<(u64, bool), Error> {
        let found = resolve(&self.file, offset, length).await?;
        if !found.is_present && self.options.bottom.is_none() {
            // It is in no image and reads as zeros. If there is one behind, that is written down, as other data is.
            let here = self.file.status(offset, found.length).await?;
            return Ok((here.length.min(found.length), !here.is_here && self.file.backing().is_some()));
        }
        let is_copied = found.depth > 0 && found.is_present && self.is_above_bottom(&found.node);
        Ok((found.length, is_copied))
    }

    /// The image is the bottom one, or one in front of it.
    fn is_above_bottom(&self, image: &Arc<Node>) -> bool {
        let Some(bottom) = &self.options.bottom else { return true };
        let mut node = Some(image.clone());
        while let Some(this) = node {
            if Arc::ptr_eq(&this, bottom) {
                return true;
            }
            node = this.backing();
        }
        false
    }

    /// Copies what is to be of one stretch of clusters.
    async fn copy(&self, start: u64, end: u64) -> Result<(), Error> {
        let end = end.min(self.length());
        let mut at = start;
        while at < end {
            let (length, is_copied) = self.must_copy(at, (end - at).min(AT_ONCE)).await?;
            if length == 0 {
                break;
            }
            if is_copied {
                let data = IoVector::zeroed(length as usize);
                self.file.read(at, data.clone()).await?;
                self.file.event(BlkdebugEvent::CorWrite);
                if data.is_zero() {
                    self.file.write_zeroes(at, length, ZeroFlags::empty()).await?;
                } else {
                    self.file.write(at, data).await?;
                }
            }
            at += length;
        }
        Ok(())
    }
}

#[async_trait]
impl Driver for CopyOnRead {
    fn name(&self) -> &'static str {
        "copy-on-read"
    }
    fn is_filter(&self) -> bool {
        true
    }
    fn length(&self) -> u64 {
        self.file.length()
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn cluster_size(&self) -> u64 {
        self.file.driver().cluster_size()
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let (start, end) = self.clusters(offset, (to.len() as u64).min(self.length().saturating_sub(offset)));
        let mut at = start;
        let mut is_all_here = true;
        while at < end && is_all_here {
            let _turn = self.requests.shared(at..end).await;
            let (length, is_copied) = self.must_copy(at, end - at).await?;
            is_all_here = !is_copied;
            at += length.max(1);
        }
        if !is_all_here {
            let _turn = self.requests.exclusive(start..end).await;
            self.copy(start, end).await?;
        }
        self.file.read(offset, to).await
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let _turn = self.changing(offset, from.len() as u64).await;
        self.file.write(offset, from).await
    }
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        let _turn = self.changing(offset, length).await;
        self.file.write_zeroes(offset, length, flags).await.map(|()| Zeroed::Done)
    }
    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        let _turn = self.changing(offset, length).await;
        self.file.discard(offset, length).await
    }
    async fn write_compressed(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let _turn = self.changing(offset, from.len() as u64).await;
        self.file.write_compressed(offset, from).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.file.flush().await
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        status_through(&self.file, offset, length).await
    }
    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        self.file.truncate(length, preallocation).await
    }
    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        vec![(Role::File, self.file.clone())]
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use futures_executor::block_on;
    use futures_util::future::join_all;

    use super::*;
    use crate::{ImageOptions, MemoryDisk, open};

    /// Makes base <- middle <- top with qemu-img and qemu-io, 1 MiB each; `None` without them.
    fn chain(folder: &std::path::Path) -> Option<std::path::PathBuf> {
        let run = |program: &str, arguments: &str| {
            let output = Command::new(program).args(arguments.split(' ')).current_dir(folder).output().ok()?;
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
            Some(())
        };
        run("qemu-img", "create -f qcow2 base 1M")?;
        run("qemu-img", "create -f qcow2 -b base -F qcow2 middle")?;
        run("qemu-img", "create -f qcow2 -b middle -F qcow2 top")?;
        for (image, offset, pattern) in [("base", "0", "1"), ("middle", "128k", "2"), ("top", "256k", "3")] {
            let write = format!("write -P {pattern} {offset} 64k");
            let status = Command::new("qemu-io").args(["-c", &write, image]).current_dir(folder).output().ok()?;
            assert!(status.status.success());
        }
        Some(folder.join("top"))
    }

    /// Where the image at the front decides, in clusters.
    fn clusters(image: &Arc<Node>) -> Vec<u64> {
        let is_here = |cluster: &u64| block_on(image.status(*cluster << 16, 1)).unwrap().is_here;
        (0..16).filter(is_here).collect()
    }

    #[test]
    fn what_is_read_is_copied_down_to_the_bottom() {
        let folder = tempfile::tempdir().unwrap();
        for has_bottom in [false, true] {
            let Some(path) = chain(folder.path()) else {
                eprintln!("SKIPPED: what_is_read_is_copied_down_to_the_bottom: no qemu-img");
                return;
            };
            let top = block_on(open(&path, ImageOptions::default())).unwrap();
            let bottom = if has_bottom { top.backing() } else { None };
            let disk = Node::new("disk", CopyOnRead::new(CopyOnReadOptions { bottom }, top.clone()).unwrap());
            assert_eq!(clusters(&top), [4]);
            let read = |offset, pattern| {
                assert_eq!(block_on(disk.read_vec(offset, 100)).unwrap(), [pattern; 100]);
            };
            read(5, 1);
            read((128 << 10) + 60_000, 2);
            read(256 << 10, 3);
            read(512 << 10, 0);
            // Nothing else was copied, and nothing but zeros was not.
            let expected: &[u64] = if has_bottom { &[2, 4] } else { &[0, 2, 4, 8] };
            assert_eq!(clusters(&top), expected);
            block_on(disk.close()).unwrap();
            for name in ["base", "middle", "top"] {
                std::fs::remove_file(folder.path().join(name)).unwrap();
            }
        }
    }

    #[test]
    fn writes_are_not_lost_to_copies() {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = chain(folder.path()) else {
            eprintln!("SKIPPED: writes_are_not_lost_to_copies: no qemu-img");
            return;
        };
        let top = block_on(open(&path, ImageOptions::default())).unwrap();
        let disk = Node::new("disk", CopyOnRead::new(CopyOnReadOptions::default(), top).unwrap());
        block_on(async {
            let reads = join_all((0..32).map(|part| disk.read_vec(part * 2048, 512)));
            let writes = join_all((0..32).map(|part| disk.write_bytes(part * 2048 + 512, &[9; 512])));
            let (reads, writes) = futures_util::future::join(reads, writes).await;
            assert!(reads.iter().all(|read| read.as_ref().unwrap() == &[1; 512]));
            assert!(writes.iter().all(Result::is_ok));
            for part in 0..32 {
                let bytes = disk.read_vec(part * 2048, 1536).await.unwrap();
                assert_eq!((bytes[511], bytes[512], bytes[1023], bytes[1024]), (1, 9, 9, 1));
            }
            disk.close().await.unwrap();
        });
    }

    #[test]
    fn an_image_that_cannot_be_written_is_refused_as_qemu_does() {
        let file = Node::new("file", MemoryDisk::new(vec![0; 512], true));
        let error = CopyOnRead::new(CopyOnReadOptions::default(), file).err().unwrap();
        assert_eq!(error.to_string(), "Block node is read-only");
    }
}
