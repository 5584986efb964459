//! The `throttle` filter: a disk that does no more than the limits of its group allow.

use std::sync::Arc;

use async_trait::async_trait;

use super::status_through;
use crate::driver::{Driver, Preallocation, Role, Status, ZeroFlags, Zeroed};
use crate::throttle::{Direction, ThrottleGroup, ThrottleMember};
use crate::{Error, IoVector, Node};

/// A disk whose requests wait for their turn in a [`ThrottleGroup`]. QEMU's `BlockdevOptionsThrottle` has the group and the child alone.
pub struct Throttle {
    file: Arc<Node>,
    member: ThrottleMember,
}

impl Throttle {
    /// `file`, as a new member of the group (`throttle-group`).
    pub fn new(group: &Arc<ThrottleGroup>, file: Arc<Node>) -> Throttle {
        Throttle { file, member: group.join() }
    }

    /// The group.
    pub fn group(&self) -> &Arc<ThrottleGroup> {
        self.member.group()
    }
}

#[async_trait]
impl Driver for Throttle {
    fn name(&self) -> &'static str {
        "throttle"
    }
    fn is_filter(&self) -> bool {
        true
    }
    fn length(&self) -> u64 {
        self.file.length()
    }
    fn is_read_only(&self) -> bool {
        self.file.is_read_only()
    }
    fn cluster_size(&self) -> u64 {
        self.file.driver().cluster_size()
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        self.member.admit(Direction::Read, to.len() as u64).await?;
        self.file.read(offset, to).await
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.member.admit(Direction::Write, from.len() as u64).await?;
        self.file.write(offset, from).await
    }
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        self.member.admit(Direction::Write, length).await?;
        self.file.write_zeroes(offset, length, flags).await.map(|()| Zeroed::Done)
    }
    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.member.admit(Direction::Write, length).await?;
        self.file.discard(offset, length).await
    }
    async fn write_compressed(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.member.admit(Direction::Write, from.len() as u64).await?;
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
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::MemoryDisk;
    use crate::clock::manual::ManualClock;
    use crate::throttle::{Limit, ThrottleConfig};

    #[test]
    fn requests_wait_and_are_then_done() {
        let clock = ManualClock::default();
        let config = ThrottleConfig { bps_write: Limit::of(1000), ..ThrottleConfig::default() };
        let group = ThrottleGroup::new("group", config, Arc::new(clock.clone())).unwrap();
        let file = Node::new("file", MemoryDisk::new(vec![0; 4096], false));
        let disk = Node::new("disk", Throttle::new(&group, file.clone()));
        disk.write_bytes(0, &[1; 600]).now_or_never().unwrap().unwrap();
        let mut zeros = Box::pin(disk.write_zeroes(0, 300, ZeroFlags::empty()));
        assert!(zeros.as_mut().now_or_never().is_none());
        assert_eq!(disk.read_vec(299, 2).now_or_never().unwrap().unwrap(), [1, 1]);
        disk.flush().now_or_never().unwrap().unwrap();
        clock.advance(Duration::from_millis(500));
        zeros.now_or_never().unwrap().unwrap();
        assert_eq!(disk.read_vec(299, 2).now_or_never().unwrap().unwrap(), [0, 1]);
        assert!(disk.discard(0, 4096).now_or_never().is_none());
    }
}
