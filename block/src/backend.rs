//! What users of a disk have in their hands.

use std::sync::Arc;

use futures_executor::block_on;
use parking_lot::Mutex;

use crate::driver::ZeroFlags;
use crate::policy::{ErrorAction, FailedRequest, OnError, Operation};
use crate::{Error, IoVector, Node};

/// A disk in use by a guest device, an export or a tool: a node, and what concerns the user alone.
///
/// No request goes beyond the end of the disk. Shared by threads; requests may run at once.
pub struct Backend {
    node: Arc<Node>,
    name: String,
    policy: ErrorPolicy,
    // Lock order: alone.
    listener: Mutex<Option<Listener>>,
}

/// What happens when requests fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// Requests that read (`rerror`).
    pub read: OnError,
    /// Others (`werror`).
    pub write: OnError,
}

impl Default for ErrorPolicy {
    fn default() -> ErrorPolicy {
        ErrorPolicy { read: OnError::Report, write: OnError::NoSpace }
    }
}

/// Told of each request of a guest that failed. It must not wait.
pub type Listener = Box<dyn Fn(FailedRequest) + Send + Sync>;

impl Backend {
    /// The user of a node.
    pub fn new(node: Arc<Node>) -> Arc<Backend> {
        Backend::named("", ErrorPolicy::default(), node)
    }

    /// The user of a node, under the user's name for the disk.
    pub fn named(name: &str, policy: ErrorPolicy, node: Arc<Node>) -> Arc<Backend> {
        Arc::new(Backend { node, name: name.to_owned(), policy, listener: Mutex::new(None) })
    }

    /// The user's name for the disk, or nothing.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who is told of requests that fail.
    pub fn listen(&self, listener: Listener) {
        *self.listener.lock() = Some(listener);
    }

    /// A request of the guest failed: what the device does about it. Who listens is told.
    pub fn failed(&self, operation: Operation, error: &Error) -> ErrorAction {
        let policy = match operation {
            Operation::Read => self.policy.read,
            Operation::Write => self.policy.write,
        };
        let action = policy.action(error);
        let request = FailedRequest {
            device: self.name.clone(),
            node: self.node.name().to_owned(),
            operation,
            action,
            is_no_space: error.is_no_space(),
            reason: error.to_string(),
        };
        tracing::debug!("disk {}: {} failed: {error}; {}", self.node.name(), operation.name(), action.name());
        if let Some(listener) = &*self.listener.lock() {
            listener(request);
        }
        action
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.node.length()
    }

    /// True if writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.node.is_read_only()
    }

    /// Checks a request of `length` bytes at `offset`.
    fn check(&self, offset: u64, length: u64) -> Result<(), Error> {
        let disk = self.length();
        match offset.checked_add(length) {
            Some(end) if end <= disk => Ok(()),
            _ => Err(Error::OutOfBounds { offset, length, disk }),
        }
    }

    /// Fills `to` with the bytes from `offset` on.
    pub async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        self.check(offset, to.len() as u64)?;
        self.node.read(offset, to).await
    }

    /// Writes `from` at `offset`. It is safe from a crash of the host only after a [`Backend::flush`].
    pub async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.check(offset, from.len() as u64)?;
        self.node.write(offset, from).await
    }

    /// Makes `length` bytes from `offset` on zero.
    pub async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<(), Error> {
        self.check(offset, length)?;
        self.node.write_zeroes(offset, length, flags).await
    }

    /// Tells that nobody needs `length` bytes from `offset` on.
    pub async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.check(offset, length)?;
        self.node.discard(offset, length).await
    }

    /// Returns once everything that was written before is on stable storage.
    pub async fn flush(&self) -> Result<(), Error> {
        self.node.flush().await
    }

    /// [`Backend::read`], for threads that may wait.
    pub fn read_blocking(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let to = IoVector::zeroed(buffer.len());
        block_on(self.read(offset, to.clone()))?;
        to.copy_to(buffer);
        Ok(())
    }

    /// [`Backend::write`], for threads that may wait.
    pub fn write_blocking(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        block_on(self.write(offset, IoVector::copy_of(data)))
    }

    /// [`Node::close`], for threads that may wait.
    pub fn close_blocking(&self) -> Result<(), Error> {
        block_on(self.node.close())
    }

    /// [`Backend::flush`], for threads that may wait.
    pub fn flush_blocking(&self) -> Result<(), Error> {
        block_on(self.flush())
    }
}
