//! What waits to be written to one client.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};

/// How much may wait for a client before nothing more is done for it, bytes. A message that is larger than this passes
/// when it is the only one.
const LIMIT: usize = 1 << 20;

/// A client that will receive nothing more: it went, or it did not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

struct State {
    queue: VecDeque<Arc<[u8]>>,
    /// Length of what is in the queue or being written.
    bytes: usize,
    /// Nothing more will be added.
    complete: bool,
}

/// A bounded queue of messages for one client.
pub(crate) struct Output {
    // Lock order: alone, and never across an await.
    state: Mutex<State>,
    filled: Notify,
    drained: Notify,
    gone: watch::Sender<bool>,
}

impl Output {
    pub(crate) fn new() -> Output {
        let state = State { queue: VecDeque::new(), bytes: 0, complete: false };
        Output {
            state: Mutex::new(state),
            filled: Notify::new(),
            drained: Notify::new(),
            gone: watch::channel(false).0,
        }
    }

    /// Adds a message, as soon as there is room. For one task only.
    pub(crate) async fn push(&self, message: Vec<u8>) -> Result<(), Gone> {
        let message: Arc<[u8]> = message.into();
        let mut gone = self.gone.subscribe();
        loop {
            if *gone.borrow_and_update() {
                return Err(Gone);
            }
            if self.try_push(&message) {
                return Ok(());
            }
            tokio::select! {
                () = self.drained.notified() => {}
                _ = gone.changed() => {}
            }
        }
    }

    /// Adds a message that cannot wait, or gives the client up.
    pub(crate) fn push_now(&self, message: &Arc<[u8]>) {
        if !*self.gone.borrow() && !self.try_push(message) {
            tracing::warn!("a monitor client does not read; it is dropped");
            self.give_up();
        }
    }

    fn try_push(&self, message: &Arc<[u8]>) -> bool {
        let mut state = self.state.lock();
        if state.bytes > 0 && state.bytes + message.len() > LIMIT {
            return false;
        }
        state.bytes += message.len();
        state.queue.push_back(message.clone());
        self.filled.notify_one();
        true
    }

    /// Nothing more will be added: [`Output::write_to`] returns when all is written.
    pub(crate) fn finish(&self) {
        self.state.lock().complete = true;
        self.filled.notify_one();
    }

    /// Drops the client.
    pub(crate) fn give_up(&self) {
        self.gone.send_replace(true);
        *self.state.lock() = State { queue: VecDeque::new(), bytes: 0, complete: true };
        self.filled.notify_one();
    }

    /// Waits until the client is given up.
    pub(crate) async fn wait_gone(&self) {
        // The sender lives as long as this does.
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// Writes what is added until [`Output::finish`] or [`Output::give_up`]. For one task only.
    pub(crate) async fn write_to(&self, mut writer: impl AsyncWrite + Unpin) -> io::Result<()> {
        loop {
            let next = {
                let mut state = self.state.lock();
                match state.queue.pop_front() {
                    Some(message) => Some(message),
                    None if state.complete => break,
                    None => None,
                }
            };
            let Some(message) = next else {
                self.filled.notified().await;
                continue;
            };
            tokio::select! {
                result = writer.write_all(&message) => result?,
                () = self.wait_gone() => return Ok(()),
            }
            let mut state = self.state.lock();
            state.bytes = state.bytes.saturating_sub(message.len());
            drop(state);
            self.drained.notify_one();
        }
        writer.flush().await?;
        writer.shutdown().await
    }
}
