//! The `blkverify` filter: a disk that is compared with another one, request by request.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join;

use super::status_through;
use crate::driver::{Driver, Role, Status};
use crate::{Error, IoVector, Node};

/// Most bytes that are compared at once.
const AT_ONCE: usize = 1 << 20;

/// A disk under test, whose requests go to a disk that is known to work, too. QEMU's `BlockdevOptionsBlkverify` has the two alone.
pub struct Blkverify {
    test: Arc<Node>,
    raw: Arc<Node>,
}

impl Blkverify {
    /// The disk of `test`, to be compared with `raw`.
    pub fn new(test: Arc<Node>, raw: Arc<Node>) -> Blkverify {
        Blkverify { test, raw }
    }

    /// What becomes of a request that both were given.
    fn compare(
        verb: &str,
        offset: u64,
        bytes: usize,
        raw: Result<(), Error>,
        test: Result<(), Error>,
    ) -> Result<(), Error> {
        let number = |result: &Result<(), Error>| result.as_ref().map_or_else(|error| -error.errno(), |()| 0);
        let (known, tested) = (number(&raw), number(&test));
        if known == tested {
            return test;
        }
        Err(Blkverify::differs(verb, offset, bytes, format!("return value mismatch {known} != {tested}")))
    }

    fn differs(verb: &str, offset: u64, bytes: usize, why: String) -> Error {
        let text = format!("blkverify: {verb} offset={offset} bytes={bytes} {why}");
        tracing::error!("{text}");
        Error::Differs(text)
    }
}

#[async_trait]
impl Driver for Blkverify {
    fn name(&self) -> &'static str {
        "blkverify"
    }
    fn length(&self) -> u64 {
        self.test.length()
    }
    fn is_read_only(&self) -> bool {
        self.test.is_read_only() || self.raw.is_read_only()
    }
    fn cluster_size(&self) -> u64 {
        self.test.driver().cluster_size()
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let mut done = 0;
        while done < to.len() {
            let part = to.slice(done, (to.len() - done).min(AT_ONCE));
            let at = offset + done as u64;
            // The guest could change its memory while it is compared.
            let (known, tested) = (IoVector::zeroed(part.len()), IoVector::zeroed(part.len()));
            let (raw, test) = join(self.raw.read(at, known.clone()), self.test.read(at, tested.clone())).await;
            Blkverify::compare("read", at, part.len(), raw, test)?;
            if let Some(place) = known.first_difference(&tested) {
                let why = format!("contents mismatch at offset {}", at + place as u64);
                return Err(Blkverify::differs("read", at, part.len(), why));
            }
            part.copy_from_vector(&tested);
            done += part.len();
        }
        Ok(())
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let mut done = 0;
        while done < from.len() {
            let part = from.slice(done, (from.len() - done).min(AT_ONCE));
            let at = offset + done as u64;
            // Both are to get the same, whatever the guest does meanwhile.
            let data = IoVector::zeroed(part.len());
            data.copy_from_vector(&part);
            let (raw, test) = join(self.raw.write(at, data.clone()), self.test.write(at, data)).await;
            Blkverify::compare("write", at, part.len(), raw, test)?;
            done += part.len();
        }
        Ok(())
    }
    async fn flush(&self) -> Result<(), Error> {
        // Nobody needs the other one afterwards.
        self.test.flush().await
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let status = status_through(&self.test, offset, length).await?;
        Ok(Status { file_offset: None, ..status })
    }
    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        vec![(Role::Test, self.test.clone()), (Role::Raw, self.raw.clone())]
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
    use crate::driver::ZeroFlags;
    use crate::filters::blkdebug::{Blkdebug, BlkdebugEvent, BlkdebugOptions, InjectError};

    #[test]
    fn differences_are_errors() {
        let node = |bytes| Node::new("node", MemoryDisk::new(bytes, false));
        let (test, raw) = (node(vec![0; 3 << 20]), node(vec![0; 3 << 20]));
        let disk = Node::new("disk", Blkverify::new(test.clone(), raw.clone()));
        block_on(async {
            disk.write_bytes(7, &[5; 2 << 20]).await.unwrap();
            disk.write_zeroes(1000, 5000, ZeroFlags::empty()).await.unwrap();
            assert_eq!(disk.read_vec(0, 3 << 20).await.unwrap(), raw.read_vec(0, 3 << 20).await.unwrap());
            test.write_bytes(1_100_000, &[1]).await.unwrap();
            let error = disk.read_vec(100, 2 << 20).await.unwrap_err();
            let text = "blkverify: read offset=1048676 bytes=1048576 contents mismatch at offset 1100000";
            assert_eq!((error.to_string().as_str(), error.errno()), (text, libc::EIO));
            disk.read_vec(1_100_001, 1000).await.unwrap();
        });
    }

    #[test]
    fn one_error_alone_is_a_difference() {
        let node = || Node::new("node", MemoryDisk::new(vec![0; 1 << 20], false));
        let inject_error = vec![InjectError { sector: Some(8), ..InjectError::after(BlkdebugEvent::None) }];
        let failing = || {
            let options = BlkdebugOptions { inject_error: inject_error.clone(), ..BlkdebugOptions::default() };
            Node::new("failing", Blkdebug::new(options, node()).unwrap())
        };
        let disk = Node::new("disk", Blkverify::new(failing(), node()));
        let error = block_on(disk.write_bytes(4096, &[1; 512])).unwrap_err();
        assert_eq!(error.to_string(), "blkverify: write offset=4096 bytes=512 return value mismatch 0 != -5");
        let both = Node::new("both", Blkverify::new(failing(), failing()));
        assert!(matches!(block_on(both.read_vec(4096, 512)), Err(Error::Host { .. })));
    }
}
