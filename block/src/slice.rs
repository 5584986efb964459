//! A part of another node.

use std::sync::Arc;

use async_trait::async_trait;

use crate::driver::{Driver, Role, Status, ZeroFlags, Zeroed};
use crate::{Error, IoVector, Node};

/// The bytes of a node from some offset on, as a disk.
pub(crate) struct Slice {
    node: Arc<Node>,
    start: u64,
    length: u64,
}

impl Slice {
    /// `length` bytes of `node` from `start` on; the sum of both is a number of 64 bits.
    pub(crate) fn new(node: Arc<Node>, start: u64, length: u64) -> Slice {
        Slice { node, start, length }
    }

    /// Checks a request that changes the disk: behind its end may be something else.
    fn check(&self, offset: u64, length: u64) -> Result<(), Error> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(Error::OutOfBounds { offset, length, disk: self.length }),
        }
    }
}

#[async_trait]
impl Driver for Slice {
    fn name(&self) -> &'static str {
        "raw"
    }
    fn length(&self) -> u64 {
        self.length
    }
    fn is_read_only(&self) -> bool {
        self.node.is_read_only()
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let there = self.length.saturating_sub(offset).min(to.len() as u64) as usize;
        to.slice(there, to.len() - there).fill(0);
        if there == 0 {
            return Ok(());
        }
        self.node.read(self.start + offset, to.slice(0, there)).await
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.check(offset, from.len() as u64)?;
        self.node.write(self.start + offset, from).await
    }
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        self.check(offset, length)?;
        self.node.write_zeroes(self.start + offset, length, flags).await.map(|()| Zeroed::Done)
    }
    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.check(offset, length)?;
        self.node.discard(self.start + offset, length).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.node.flush().await
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let status = self.node.status(self.start + offset, length).await?;
        Ok(Status { file_offset: Some(self.start + offset), ..status })
    }
    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        vec![(Role::File, self.node.clone())]
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
