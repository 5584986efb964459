//! The `null-co` and `null-aio` protocols: a disk that keeps nothing, to measure and test what is above it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::driver::{Driver, Preallocation, Status, StatusKind, ZeroFlags, Zeroed};
use crate::{Clock, Error, IoVector};

/// Which of the two drivers it is. They do the same here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NullKind {
    /// `null-co`.
    #[default]
    Coroutine,
    /// `null-aio`.
    Callback,
}

/// QEMU's `BlockdevOptionsNull`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NullOptions {
    /// Length in bytes; 1 GiB if it is not given.
    pub size: u64,
    /// How long each request takes, nanoseconds (`latency-ns`); 0 if it is not given.
    pub latency_ns: u64,
    /// Reads as zeros (`read-zeroes`). If not, which is the default, the memory of who reads stays as it is.
    pub read_zeroes: bool,
    /// Refuses writes (`read-only`, which all nodes have).
    pub read_only: bool,
}

impl Default for NullOptions {
    fn default() -> NullOptions {
        NullOptions { size: 1 << 30, latency_ns: 0, read_zeroes: false, read_only: false }
    }
}

/// A disk that keeps nothing.
pub struct Null {
    kind: NullKind,
    options: NullOptions,
    length: AtomicU64,
    clock: Arc<dyn Clock>,
}

impl Null {
    /// A disk whose requests take as long as the options say, by this clock.
    pub fn new(kind: NullKind, options: NullOptions, clock: Arc<dyn Clock>) -> Result<Null, Error> {
        if i64::try_from(options.latency_ns).is_err() {
            return Err(Error::Unsupported("latency-ns is invalid".into()));
        }
        Ok(Null { kind, options, length: AtomicU64::new(options.size), clock })
    }

    async fn take_time(&self) -> Result<(), Error> {
        match self.options.latency_ns {
            0 => Ok(()),
            time => self.clock.wait(Duration::from_nanos(time)).await,
        }
    }
}

#[async_trait]
impl Driver for Null {
    fn name(&self) -> &'static str {
        match self.kind {
            NullKind::Coroutine => "null-co",
            NullKind::Callback => "null-aio",
        }
    }
    fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }
    fn is_read_only(&self) -> bool {
        self.options.read_only
    }
    async fn read(&self, _offset: u64, to: IoVector) -> Result<(), Error> {
        self.take_time().await?;
        if self.options.read_zeroes {
            to.fill(0);
        }
        Ok(())
    }
    async fn write(&self, _offset: u64, _from: IoVector) -> Result<(), Error> {
        self.take_time().await
    }
    async fn write_zeroes(&self, _offset: u64, _length: u64, _flags: ZeroFlags) -> Result<Zeroed, Error> {
        self.take_time().await.map(|()| Zeroed::Done)
    }
    async fn flush(&self) -> Result<(), Error> {
        self.take_time().await
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let kind = if self.options.read_zeroes { StatusKind::ZeroAllocated } else { StatusKind::Data };
        Ok(Status { length, kind, is_here: true, file_offset: Some(offset), is_compressed: false })
    }
    async fn truncate(&self, length: u64, _preallocation: Preallocation) -> Result<(), Error> {
        self.length.store(length, Ordering::Relaxed);
        Ok(())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;
    use futures_util::FutureExt;

    use super::*;
    use crate::clock::manual::ManualClock;
    use crate::{HostClock, Node};

    fn null(options: NullOptions) -> Arc<Node> {
        Node::new("null", Null::new(NullKind::Coroutine, options, Arc::new(HostClock)).unwrap())
    }

    #[test]
    fn nothing_is_kept() {
        let zeros = null(NullOptions { read_zeroes: true, ..NullOptions::default() });
        let memory = IoVector::copy_of(b"something");
        block_on(async {
            zeros.write(0, memory.clone()).await.unwrap();
            zeros.write_zeroes(0, 1 << 30, ZeroFlags::empty()).await.unwrap();
            zeros.flush().await.unwrap();
            null(NullOptions::default()).read(0, memory.clone()).await.unwrap();
            assert_eq!(memory.to_vec(), b"something");
            zeros.read(5, memory.clone()).await.unwrap();
            assert!(memory.is_zero());
            assert_eq!(zeros.status(0, 10).await.unwrap().kind, StatusKind::ZeroAllocated);
            assert_eq!(zeros.length(), 1 << 30);
            let read_only = null(NullOptions { read_only: true, size: 5, ..NullOptions::default() });
            assert!(matches!(read_only.write_bytes(0, b"x").await, Err(Error::ReadOnly)));
            assert_eq!(read_only.length(), 5);
        });
    }

    #[test]
    fn requests_take_as_long_as_the_options_say() {
        let clock = ManualClock::default();
        let options = NullOptions { latency_ns: 1000, ..NullOptions::default() };
        let null = Node::new("null", Null::new(NullKind::Callback, options, Arc::new(clock.clone())).unwrap());
        let mut flush = Box::pin(null.flush());
        assert!(flush.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_nanos(999));
        assert!(flush.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_nanos(1));
        assert!(flush.now_or_never().unwrap().is_ok());
        let options = NullOptions { latency_ns: u64::MAX, ..options };
        let error = Null::new(NullKind::Callback, options, Arc::new(clock)).err().unwrap();
        assert_eq!(error.to_string(), "latency-ns is invalid");
    }
}
