//! The `raw` format: the bytes of the file are the disk's.

use std::sync::Arc;

use async_trait::async_trait;

use crate::driver::{Driver, Preallocation, Role, Status, ZeroFlags, Zeroed};
use crate::{Error, IoVector, Node};

/// An image that is nothing but the disk.
pub struct Raw {
    file: Arc<Node>,
}

impl Raw {
    /// The image in a file.
    pub fn new(file: Arc<Node>) -> Raw {
        Raw { file }
    }
}

#[async_trait]
impl Driver for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }
    fn length(&self) -> u64 {
        self.file.length()
    }
    fn is_read_only(&self) -> bool {
        self.file.is_read_only()
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        self.file.read(offset, to).await
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.file.write(offset, from).await
    }
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        self.file.write_zeroes(offset, length, flags).await.map(|()| Zeroed::Done)
    }
    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.file.discard(offset, length).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.file.flush().await
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let status = self.file.status(offset, length).await?;
        Ok(Status { file_offset: Some(offset), ..status })
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
