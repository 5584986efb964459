//! What the image tool does with disks: each a future that needs a Tokio runtime with its timers, and uses all of its threads.
//!
//! Offsets are of disks that are whole sectors long: the last sector of a disk that is not ends in zeros.

mod bench;
mod blocks;
mod chain;
mod compare;
mod copy;
mod map;
mod measure;
mod rebase;
#[cfg(test)]
mod tests;

use crate::{Error, Node, host_words};

pub use bench::{BenchError, BenchOptions, BenchWrites, bench};
pub use chain::{Resolved, resolve};
pub use compare::{CompareError, CompareOptions, Difference, DifferenceKind, compare};
pub use copy::{CopyError, CopyOptions, Progress, TellProgress, TellUnreadable, copy};
pub use map::{Extent, map};
pub use measure::{Measure, measure};
pub use rebase::copy_differences;

/// What disks are whole multiples of, bytes.
pub const SECTOR: u64 = 512;

/// Most bytes of one request of an operation.
const REQUEST: u64 = 2 << 20;

/// Length of the disk in bytes, in whole sectors.
pub fn length_in_sectors(node: &Node) -> u64 {
    node.length().checked_next_multiple_of(SECTOR).unwrap_or(node.length())
}

/// The error in the host's words alone, where it is the host's.
pub fn words(error: &Error) -> String {
    match error {
        Error::Host { source, .. } => host_words(source),
        other => other.to_string(),
    }
}
