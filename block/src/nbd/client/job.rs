//! A request on its way.

use std::time::Instant;

use tokio::sync::oneshot;

use crate::IoVector;
use crate::nbd::Failure;
use crate::nbd::wire::*;

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// What is known of the blocks.
    Extent(Extent),
}

/// A request that somebody waits for.
pub(super) struct Job {
    pub(super) command: u16,
    pub(super) flags: CommandFlags,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// What is written from or read into; may be empty.
    pub(super) memory: IoVector,
    /// Told of the end.
    pub(super) done: oneshot::Sender<Result<Answer, Failure>>,
    /// It fails where a connection is lost after this: set when one was lost first.
    pub(super) deadline: Option<Instant>,
}

impl Job {
    pub(super) fn end(self, result: Result<Answer, Failure>) {
        // Who asked may have given up.
        let _ = self.done.send(result);
    }

    /// Nobody waits for it any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.done.is_closed()
    }
}

/// What the connection is asked for.
pub(super) enum Order {
    /// A request.
    Job(Job),
    /// Its end; what is in it is dropped when that has come.
    Leave(#[expect(dead_code, reason = "only its end is waited for")] oneshot::Sender<()>),
}
