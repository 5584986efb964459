//! What is known of a disk, whichever of the images behind it knows.

use std::sync::Arc;

use super::length_in_sectors;
use crate::driver::{Status, StatusKind};
use crate::{Error, Node};

/// What is known of a stretch of a disk, and who decides.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// How long it is, bytes.
    pub length: u64,
    /// What is there.
    pub kind: StatusKind,
    /// How many images are in front of the one that decides.
    pub depth: usize,
    /// The image that decides.
    pub node: Arc<Node>,
    /// An image has it, and it would not be read from one that is put behind all of them.
    pub is_present: bool,
    /// Where it is in that image's file, if it is there as it is.
    pub file_offset: Option<u64>,
    /// It is there in compressed form.
    pub is_compressed: bool,
}

impl Resolved {
    /// The same is known of `next`, which follows.
    pub(super) fn is_continued_by(&self, next: &Resolved) -> bool {
        self.kind == next.kind
            && self.depth == next.depth
            && self.is_present == next.is_present
            && self.is_compressed == next.is_compressed
            && self.file_offset.map(|offset| offset + self.length) == next.file_offset
    }
}

/// What is known of the bytes from `offset` on: of at least one and at most `length`, which is not 0.
pub async fn resolve(front: &Arc<Node>, offset: u64, length: u64) -> Result<Resolved, Error> {
    let mut node = front.clone();
    let (mut length, mut depth) = (length, 0);
    loop {
        let status = status_in_sectors(&node, offset, length).await?;
        length = status.length.min(length);
        // An image that is shorter than the one in front of it does not decide behind its end.
        let behind = if status.is_here { None } else { node.backing() };
        if let Some(behind) = behind.filter(|behind| offset < length_in_sectors(behind)) {
            length = length.min(length_in_sectors(&behind) - offset);
            (node, depth) = (behind, depth + 1);
            continue;
        }
        let kind = if status.is_here { status.kind } else { StatusKind::Zero };
        return Ok(Resolved {
            length,
            kind,
            depth,
            node,
            is_present: status.is_here,
            file_offset: status.file_offset.filter(|_| status.is_here),
            is_compressed: status.is_compressed,
        });
    }
}

/// [`Node::status`], where zeros fill the last sector and belong to what is before them.
async fn status_in_sectors(node: &Node, offset: u64, length: u64) -> Result<Status, Error> {
    let mut status = node.status(offset, length).await?;
    if let Some(last) = node.length().checked_sub(1).filter(|last| *last < offset) {
        let before = node.status(last, 1).await?;
        status.file_offset = before.file_offset.map(|place| place + (offset - last));
    }
    Ok(status)
}

/// Several disks one behind the other.
pub(super) struct Joined {
    /// Each with the offset where it begins.
    disks: Vec<(u64, Arc<Node>)>,
    length: u64,
}

impl Joined {
    pub(super) fn new(nodes: Vec<Arc<Node>>) -> Joined {
        let mut length = 0;
        let disks = nodes.into_iter().map(|node| {
            let start = length;
            length += length_in_sectors(&node);
            (start, node)
        });
        Joined { disks: disks.collect(), length }
    }

    /// Length in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The disk with an offset, the offset in it, and how many bytes follow in it.
    pub(super) fn locate(&self, offset: u64) -> Option<(&Arc<Node>, u64, u64)> {
        let next = self.disks.partition_point(|(start, _)| *start <= offset);
        let (start, node) = self.disks.get(next.checked_sub(1)?)?;
        let within = offset - start;
        let left = length_in_sectors(node).checked_sub(within).filter(|left| *left > 0)?;
        Some((node, within, left))
    }
}
