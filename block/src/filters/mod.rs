//! Filters: disks that are other disks, with something in between.

pub mod blkdebug;
mod blkverify;
mod copy_on_read;
pub mod quorum;
mod throttle;

use std::sync::Arc;

pub use blkdebug::{Blkdebug, BlkdebugEvent, BlkdebugOptions};
pub use blkverify::Blkverify;
pub use copy_on_read::{CopyOnRead, CopyOnReadOptions};
pub use quorum::{Quorum, QuorumOptions};
pub use throttle::Throttle;

use crate::driver::Status;
use crate::operations::resolve;
use crate::{Error, Node};

/// What is known of a filter's disk where it is that of `child`: all that is behind that one belongs to it.
async fn status_through(child: &Arc<Node>, offset: u64, length: u64) -> Result<Status, Error> {
    let found = resolve(child, offset, length).await?;
    Ok(Status {
        length: found.length,
        kind: found.kind,
        is_here: true,
        file_offset: Some(offset),
        is_compressed: found.is_compressed,
    })
}
