//! Where the bytes of a disk are.

use std::sync::Arc;

use super::chain::{Resolved, resolve};
use super::length_in_sectors;
use crate::{Error, Node};

/// A stretch of a disk of which one thing is known.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Where it is, bytes.
    pub start: u64,
    /// What is known of it.
    pub what: Resolved,
}

/// Hands each extent between `start` and `end` to `each`, in order, the longest possible ones.
///
/// `end` may be behind the end of the disk.
pub async fn map<E: From<Error>>(
    disk: &Arc<Node>,
    start: u64,
    end: u64,
    mut each: impl FnMut(Extent) -> Result<(), E>,
) -> Result<(), E> {
    let end = end.min(length_in_sectors(disk));
    let mut last: Option<Extent> = None;
    let mut at = start;
    while at < end {
        let what = resolve(disk, at, end - at).await?;
        if let Some(extent) = &mut last {
            if extent.what.is_continued_by(&what) {
                extent.what.length += what.length;
                at += what.length;
                continue;
            }
            each(extent.clone())?;
        }
        let length = what.length;
        last = Some(Extent { start: at, what });
        at += length;
    }
    match last {
        Some(extent) => each(extent),
        None => Ok(()),
    }
}
