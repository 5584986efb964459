//! What users of a disk have in their hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_executor::block_on;
use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::driver::{Preallocation, ZeroFlags};
use crate::policy::{ErrorAction, FailedRequest, IoStatus, OnError, Operation};
use crate::statistics::{Counted, Statistics};
use crate::{Edge, Error, IoVector, Node, Permissions};

/// A disk in use by a guest device, an export, a job or a tool: the node it is now, and what concerns the user alone.
///
/// No request goes beyond the end of the disk. Shared by threads; requests may run at once. A drive whose medium can be changed may have
/// no node.
pub struct Backend {
    root: Edge,
    name: String,
    /// Requests hold it shared; who changes the graph below holds it alone.
    // Lock order: outermost.
    requests: RwLock<()>,
    // Lock order: alone.
    user: Mutex<User>,
    // Lock order: alone.
    listener: Mutex<Option<Listener>>,
    // Lock order: alone.
    resized: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
    statistics: Statistics,
    /// Each write is followed by a flush (`cache.writeback=off`).
    is_write_through: AtomicBool,
}

/// Who uses a disk, and how.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// What the user is, in messages.
    pub description: String,
    /// The guest's device, by its identifier or its path, if it is one.
    pub device: Option<String>,
    /// It is a drive whose medium can be taken out.
    pub is_removable: bool,
    /// What it needs, and lets others do.
    pub permissions: Permissions,
    /// What happens when requests fail.
    pub policy: ErrorPolicy,
    /// Whether a request failed that is kept until the machine goes on.
    pub io_status: IoStatus,
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
        Backend::named("", ErrorPolicy::default(), Some(node))
    }

    /// The user of a node, or of a drive without a medium, under the user's name for the disk.
    pub fn named(name: &str, policy: ErrorPolicy, node: Option<Arc<Node>>) -> Arc<Backend> {
        Arc::new(Backend {
            root: Edge::new(node),
            name: name.to_owned(),
            requests: RwLock::new(()),
            user: Mutex::new(User { policy, ..User::default() }),
            listener: Mutex::new(None),
            resized: Mutex::new(None),
            statistics: Statistics::default(),
            is_write_through: AtomicBool::new(false),
        })
    }

    /// The user's name for the disk, or nothing.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who uses it, and how.
    pub fn user(&self) -> User {
        self.user.lock().clone()
    }

    /// Changes what is known of the user.
    pub fn set_user(&self, change: impl FnOnce(&mut User)) {
        change(&mut self.user.lock());
    }

    /// What was asked of it.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// A write is complete when it is in the host's cache (`cache.writeback`), as opposed to stable storage.
    pub fn is_write_back(&self) -> bool {
        !self.is_write_through.load(Ordering::Relaxed)
    }

    /// Sets [`Backend::is_write_back`].
    pub fn set_write_back(&self, write_back: bool) {
        self.is_write_through.store(!write_back, Ordering::Relaxed);
    }

    /// Who is told of requests that fail.
    pub fn listen(&self, listener: Listener) {
        *self.listener.lock() = Some(listener);
    }

    /// The device is told when the disk gets another length. It must not wait.
    pub fn on_resize(&self, told: impl Fn() + Send + Sync + 'static) {
        *self.resized.lock() = Some(Box::new(told));
    }

    /// The disk may have another length.
    pub(crate) fn tell_length(&self) {
        if let Some(told) = &*self.resized.lock() {
            told();
        }
    }

    /// Makes the disk so long. What is new reads as zeros.
    pub async fn resize(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        {
            let _alone = self.requests.write().await;
            self.medium()?.truncate(length, preallocation).await?;
        }
        self.tell_length();
        Ok(())
    }

    /// A request of the guest failed: what the device does about it. Who listens is told.
    pub fn failed(&self, operation: Operation, error: &Error) -> ErrorAction {
        let action = {
            let mut user = self.user.lock();
            let policy = match operation {
                Operation::Read => user.policy.read,
                Operation::Write => user.policy.write,
            };
            let action = policy.action(error);
            if action == ErrorAction::Stop && user.io_status == IoStatus::Ok {
                user.io_status = if error.is_no_space() { IoStatus::NoSpace } else { IoStatus::Failed };
            }
            action
        };
        let node = self.root.node().map(|node| node.name().to_owned()).unwrap_or_default();
        tracing::debug!("disk {node}: {} failed: {error}; {}", operation.name(), action.name());
        let request = FailedRequest {
            device: self.name.clone(),
            node,
            operation,
            action,
            is_no_space: error.is_no_space(),
            reason: error.to_string(),
        };
        if let Some(listener) = &*self.listener.lock() {
            listener(request);
        }
        action
    }

    /// The edge to its node.
    pub(crate) fn root(&self) -> &Edge {
        &self.root
    }

    /// The node; `None`: a drive without a medium.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.root.node()
    }

    /// The node; an error where the drive has no medium.
    pub(crate) fn medium(&self) -> Result<Arc<Node>, Error> {
        self.root.node().ok_or(Error::NoMedium)
    }

    /// Length in bytes; 0 without a medium.
    pub fn length(&self) -> u64 {
        self.root.node().map_or(0, |node| node.length())
    }

    /// True if writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.root.node().is_none_or(|node| node.is_read_only())
    }

    /// No request is under way from here on, and those that come wait until the guard is dropped.
    pub(crate) async fn quiesce(&self) -> RwLockWriteGuard<'_, ()> {
        self.requests.write().await
    }

    /// Begins a request of `length` bytes at `offset`: the node that it goes to stays where it is until the guard is dropped.
    async fn begin(&self, kind: Counted, offset: u64, length: u64) -> Result<Request<'_>, Error> {
        let guard = self.requests.read().await;
        let checked = self.medium().and_then(|node| {
            let disk = node.length();
            match offset.checked_add(length) {
                Some(end) if end <= disk => Ok(node),
                _ => Err(Error::OutOfBounds { offset, length, disk }),
            }
        });
        match checked {
            Ok(node) => Ok(Request {
                statistics: &self.statistics,
                kind,
                length,
                began: self.statistics.now(),
                node,
                _guard: guard,
            }),
            Err(error) => {
                self.statistics.invalid(kind);
                Err(error)
            }
        }
    }

    /// Fills `to` with the bytes from `offset` on.
    pub async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let request = self.begin(Counted::Read, offset, to.len() as u64).await?;
        request.end(request.node.read(offset, to).await)
    }

    /// Writes `from` at `offset`. It is safe from a crash of the host only after a [`Backend::flush`].
    pub async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let request = self.begin(Counted::Write, offset, from.len() as u64).await?;
        let written = request.node.write(offset, from).await;
        request.end(self.written(&request.node, written).await)
    }

    /// Makes `length` bytes from `offset` on zero.
    pub async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<(), Error> {
        let request = self.begin(Counted::Write, offset, length).await?;
        let written = request.node.write_zeroes(offset, length, flags).await;
        request.end(self.written(&request.node, written).await)
    }

    /// Follows a write up by a flush, if that is wanted.
    async fn written(&self, node: &Node, result: Result<(), Error>) -> Result<(), Error> {
        if result.is_ok() && self.is_write_through.load(Ordering::Relaxed) { node.flush().await } else { result }
    }

    /// Tells that nobody needs `length` bytes from `offset` on.
    pub async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        let request = self.begin(Counted::Unmap, offset, length).await?;
        request.end(request.node.discard(offset, length).await)
    }

    /// Returns once everything that was written before is on stable storage. A drive without a medium has nothing to store.
    pub async fn flush(&self) -> Result<(), Error> {
        if !self.root.is_some() {
            return Ok(());
        }
        let request = self.begin(Counted::Flush, 0, 0).await?;
        request.end(request.node.flush().await)
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

    /// [`Backend::flush`], for threads that may wait.
    pub fn flush_blocking(&self) -> Result<(), Error> {
        block_on(self.flush())
    }
}

/// A request that is under way.
struct Request<'a> {
    statistics: &'a Statistics,
    kind: Counted,
    length: u64,
    began: u64,
    node: Arc<Node>,
    _guard: RwLockReadGuard<'a, ()>,
}

impl Request<'_> {
    fn end(&self, result: Result<(), Error>) -> Result<(), Error> {
        self.statistics.ended(self.kind, self.length, self.began, result.is_ok());
        result
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Backend({:?}, {:?})", self.name, self.root.node())
    }
}
