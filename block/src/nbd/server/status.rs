//! What is known of blocks.

use std::io;
use std::sync::Arc;

use super::connection::Connection;
use super::contexts::Context;
use crate::driver::{Role, StatusKind};
use crate::nbd::Failure;
use crate::nbd::wire::*;
use crate::{Error, IoVector, Node};

/// Most extents of a reply, for each context.
const MOST_EXTENTS: usize = 2048;
/// Most questions to the disk for a reply, for each context: neighbours that are alike are one extent.
const MOST_QUESTIONS: usize = 4 * MOST_EXTENTS;
/// Most images behind one another that are looked through.
const MOST_IMAGES: u32 = 256;

/// What is known of a stretch of a disk, whichever image has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allocation {
    pub(super) length: u64,
    pub(super) kind: StatusKind,
    /// How many images up the one is that has it, the uppermost being 1; 0: none has it.
    pub(super) depth: u32,
}

/// Looks through a node and those behind it, for at least one and at most `length` bytes.
pub(super) async fn allocation(node: &Arc<Node>, offset: u64, length: u64) -> Result<Allocation, Error> {
    let (mut node, mut left, mut depth) = (node.clone(), length, 1);
    loop {
        let status = node.status(offset, left).await?;
        left = status.length.clamp(1, left);
        if status.is_here {
            return Ok(Allocation { length: left, kind: status.kind, depth });
        }
        let below = match node.backing() {
            Some(backing) => {
                depth += 1;
                Some(backing)
            }
            // A node over one that does have others behind it, such as `raw`.
            None => node.child(Role::File).filter(|_| status.file_offset == Some(offset)),
        };
        node = match below {
            // What lies behind the end of a shorter image is in none.
            Some(below) if offset < below.length() && depth <= MOST_IMAGES => below,
            _ => return Ok(Allocation { length: left, kind: StatusKind::Zero, depth: 0 }),
        };
    }
}

/// What a context tells of the bytes from `offset` on.
async fn extent(connection: &Connection, context: Context, offset: u64, length: u64) -> Result<Extent, Error> {
    let export = connection.export();
    if let Context::Bitmap(index) = context {
        let Some(bitmap) = export.bitmaps.get(index) else { return Ok(Extent { length, flags: 0 }) };
        let (is_dirty, found) = bitmap.status(offset, length);
        let flags = if is_dirty { NBD_STATE_DIRTY.into() } else { 0 };
        return Ok(Extent { length: found.clamp(1, length), flags });
    }
    let found = allocation(&export.backend.medium()?, offset, length).await?;
    let flags = match (context, found.kind) {
        (Context::Depth, _) => found.depth,
        (_, StatusKind::Data) => 0,
        (_, StatusKind::Zero) => NBD_STATE_HOLE | NBD_STATE_ZERO,
        (_, StatusKind::ZeroAllocated) => NBD_STATE_ZERO,
    };
    Ok(Extent { length: found.length, flags: flags.into() })
}

/// All that a reply tells of one context.
async fn extents(
    connection: &Connection,
    context: Context,
    header: &RequestHeader,
    most: usize,
) -> Result<Vec<Extent>, Error> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut done = 0;
    for _ in 0..MOST_QUESTIONS {
        if done == header.length {
            break;
        }
        let next = extent(connection, context, header.offset + done, header.length - done).await?;
        let count = extents.len();
        match extents.last_mut() {
            Some(last) if last.flags == next.flags => last.length += next.length,
            _ if count == most => break,
            _ => extents.push(next),
        }
        done += next.length;
    }
    Ok(extents)
}

/// Serves a question for which the bounds were checked.
pub(super) async fn serve(connection: &Connection, header: &RequestHeader, flags: CommandFlags) -> io::Result<()> {
    let Some((last, others)) = connection.contexts.split_last() else {
        let failure = Failure::new(libc::EINVAL, "no context was chosen in the handshake");
        return connection.failed(header, &failure).await;
    };
    if header.length == 0 {
        let failure = Failure::new(libc::EINVAL, "the status of 0 bytes; valid is 1 byte and more");
        return connection.failed(header, &failure).await;
    }
    let most = if flags.contains(CommandFlags::NBD_CMD_FLAG_REQ_ONE) { 1 } else { MOST_EXTENTS };
    for (context, is_last) in others.iter().map(|context| (context, false)).chain([(last, true)]) {
        let extents = match extents(connection, *context, header, most).await {
            Ok(extents) => extents,
            Err(error) => return connection.failed(header, &Failure::from(&error)).await,
        };
        let mut payload = Vec::new();
        Extent::encode_all(&extents, context.id(), connection.headers, &mut payload);
        let kind = Extent::chunk(connection.headers);
        connection.chunk(header, kind, is_last, &payload, &IoVector::empty()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures_executor::block_on;

    use super::*;
    use crate::driver::{Driver, Status};
    use crate::{MemoryDisk, Raw};

    /// An image that has data where its map says so, in front of others.
    struct Overlay {
        /// For each block of 100 bytes.
        map: &'static [bool],
        backing: Option<Arc<Node>>,
    }

    #[async_trait]
    impl Driver for Overlay {
        fn name(&self) -> &'static str {
            "overlay"
        }
        fn length(&self) -> u64 {
            self.map.len() as u64 * 100
        }
        fn is_read_only(&self) -> bool {
            true
        }
        async fn read(&self, _offset: u64, _to: IoVector) -> Result<(), Error> {
            Ok(())
        }
        async fn write(&self, _offset: u64, _from: IoVector) -> Result<(), Error> {
            Ok(())
        }
        async fn flush(&self) -> Result<(), Error> {
            Ok(())
        }
        async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
            let is_here = self.map[(offset / 100) as usize];
            let kind = if is_here { StatusKind::Data } else { StatusKind::Zero };
            Ok(Status {
                length: length.min(100 - offset % 100),
                kind,
                is_here,
                file_offset: None,
                is_compressed: false,
            })
        }
        fn children(&self) -> Vec<(Role, Arc<Node>)> {
            self.backing.iter().map(|node| (Role::Backing, node.clone())).collect()
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    #[test]
    fn what_is_behind_others_is_found() {
        let base = Node::new("base", Raw::new(Node::new("memory", MemoryDisk::new(vec![1; 250], true))));
        let middle = Overlay { map: &[false, true, false, false], backing: Some(base) };
        let middle = Node::new("middle", Raw::new(Node::new("middle's file", middle)));
        let top = Node::new("top", Overlay { map: &[true, false, false, false, false], backing: Some(middle) });
        let of = |offset, length| block_on(allocation(&top, offset, length)).unwrap();
        for (offset, length, kind, depth) in [
            (0, 100, StatusKind::Data, 1),
            (150, 50, StatusKind::Data, 2),
            (200, 50, StatusKind::Data, 3),
            // Behind the end of the base, and of the one in the middle.
            (250, 50, StatusKind::Zero, 0),
            (400, 100, StatusKind::Zero, 0),
        ] {
            assert_eq!(of(offset, 1000), Allocation { length, kind, depth }, "{offset}");
        }
        // No more than was asked for.
        assert_eq!(of(160, 10).length, 10);
    }
}
