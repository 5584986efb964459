//! What a protocol, a format or a filter implements.

use std::sync::Arc;

use async_trait::async_trait;
use bitflags::bitflags;

use crate::check::{CheckResult, Repair, Report};
use crate::filters::BlkdebugEvent;
use crate::node::Node;
use crate::{Edge, Error, IoVector};

/// What makes the bytes of a node: a file, a format over another node, a filter.
///
/// A node calls it; others call [`Node`]. Requests of one driver may run at once, and a request that was given up (its future
/// dropped) may or may not have happened.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Name of the driver, as `driver=` has it.
    fn name(&self) -> &'static str;

    /// It has the bytes of its child with role [`Role::File`], and nothing of its own.
    fn is_filter(&self) -> bool {
        false
    }

    /// What its image is called, where it is not in another node.
    fn filename(&self) -> Option<String> {
        None
    }

    /// Length in bytes.
    fn length(&self) -> u64;

    /// What each offset, length and address of a request must be a multiple of, bytes: a power of two. The node sees to it.
    fn alignment(&self) -> usize {
        1
    }

    /// What is given room at once, bytes: a power of two. Compressed data is written in such clusters, and nothing is gained by telling
    /// zeros from data within one.
    fn cluster_size(&self) -> u64 {
        1
    }

    /// Length of the blocks whose places a format has in tables, bytes, where they are all of one length.
    fn block_size(&self) -> Option<u64> {
        None
    }

    /// Data can be written in compressed form only.
    fn needs_compression(&self) -> bool {
        false
    }

    /// Fills `to` with the bytes from `offset` on. What lies behind the end is zero.
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error>;

    /// Writes `from` at `offset`. It outlives a crash of the host only after a [`Driver::flush`] that began later. A protocol grows
    /// where this goes beyond its end; a format is never asked to.
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error>;

    /// Makes `length` bytes from `offset` on zero.
    ///
    /// [`Zeroed::NotBuilt`] says that the driver has no better way than writing zeros; the node then does that.
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        let _ = (offset, length, flags);
        Ok(Zeroed::NotBuilt)
    }

    /// Tells that nobody needs `length` bytes from `offset` on. They then read as before or as zeros.
    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        let _ = (offset, length);
        Ok(())
    }

    /// Returns once everything that was written before is on stable storage.
    async fn flush(&self) -> Result<(), Error>;

    /// What is known of the bytes from `offset` on: of at least one and at most `length`. Both are within the disk, and `length` is not 0.
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let _ = offset;
        Ok(Status { length, kind: StatusKind::Data, is_here: true, file_offset: None, is_compressed: false })
    }

    /// Makes the disk so long. What is new reads as zeros.
    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        let _ = (length, preallocation);
        Err(Error::Unsupported(format!("a disk of driver '{}' has the length that it has", self.name())))
    }

    /// Writes `from`, a whole cluster or the last part of the disk, in compressed form.
    async fn write_compressed(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let _ = (offset, from);
        Err(Error::Unsupported(format!("driver '{}' has no compressed data", self.name())))
    }

    /// The compressed form of `plain`, a whole cluster or the last part of the disk, for [`Driver::write_as_compressed`]; `None` if it is
    /// written as it is, or if the driver compresses it there only.
    ///
    /// Unlike writing, which decides what comes behind what in the file, this is asked for in any order.
    async fn compress(&self, plain: IoVector) -> Result<Option<Vec<u8>>, Error> {
        let _ = plain;
        Ok(None)
    }

    /// [`Driver::write_compressed`], with what [`Driver::compress`] said of `from`.
    async fn write_as_compressed(&self, offset: u64, from: IoVector, compressed: Option<Vec<u8>>) -> Result<(), Error> {
        let _ = compressed;
        self.write_compressed(offset, from).await
    }

    /// The node that has this one's bytes (or those that are not here, `backing`), by role.
    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        Vec::new()
    }

    /// The edge to the child with this role, if it can be led elsewhere while the driver is in use.
    fn edge(&self, role: Role) -> Option<&Edge> {
        let _ = role;
        None
    }

    /// Names another image, or none, as the one behind: only the name changes, and with it what is read where the image has nothing
    /// itself. The image behind that is open stays the same.
    async fn change_backing(&self, backing: Option<(&str, Option<&str>)>) -> Result<(), Error> {
        let _ = backing;
        Err(Error::Unsupported("Operation not supported".into()))
    }

    /// Gives up everything that the image has itself: what is behind it comes forth everywhere.
    async fn make_empty(&self) -> Result<(), Error> {
        Err(Error::Unsupported(format!("images of driver '{}' cannot be emptied", self.name())))
    }

    /// Checks the image's metadata, tells of each problem in a line, and repairs what is wanted.
    async fn check(&self, repair: Repair, report: Report<'_>) -> Result<CheckResult, Error> {
        let _ = (repair, report);
        Err(Error::Unsupported("This image format does not support checks".into()))
    }

    /// Is told what the driver above does, for rules of [`crate::filters::Blkdebug`]. It must not wait.
    fn event(&self, event: BlkdebugEvent) {
        let _ = event;
    }

    /// Internal snapshots, where the format has them.
    fn internal_snapshots(&self) -> Option<&dyn InternalSnapshots> {
        None
    }

    /// Leaves what is stored as who opens it next expects it. Nothing is asked of the driver afterwards.
    async fn close(&self) -> Result<(), Error> {
        if self.is_read_only() { Ok(()) } else { self.flush().await }
    }

    /// True if writes are refused.
    fn is_read_only(&self) -> bool;

    /// It can be told to refuse writes, or to allow them, while it is in use.
    fn can_set_read_only(&self) -> bool {
        false
    }

    /// Refuses writes from now on, or allows them; what is below allows them already. No request is under way.
    async fn set_read_only(&self, read_only: bool) -> Result<(), Error> {
        if self.is_read_only() == read_only { Ok(()) } else { Err(Error::ReadOnly) }
    }

    /// The driver as what it is, for what only one format has.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// States of a disk that are kept in its image.
#[async_trait]
pub trait InternalSnapshots: Send + Sync {
    /// Those that there are.
    async fn list(&self) -> Vec<SnapshotInfo>;

    /// Keeps the present state; returns the identifier that it gets. That of `info` is not looked at, nor is the size of the state.
    async fn create(&self, info: &SnapshotInfo) -> Result<String, Error>;

    /// Forgets the one with an identifier, or else the first one with a name.
    async fn delete(&self, name: &str) -> Result<(), Error>;

    /// Makes the disk what it was then. What was written since is lost.
    async fn apply(&self, name: &str) -> Result<(), Error>;
}

/// What is known of an internal snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its identifier, a number as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made: seconds since 1970, and nanoseconds.
    pub date: (u32, u32),
    /// For how long the guest had run, nanoseconds.
    pub vm_clock: u64,
    /// Bytes of the machine's state.
    pub vm_state_size: u64,
    /// How many instructions the guest had executed, where that is counted.
    pub instructions: Option<u64>,
}

/// What a node is to the one above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It has the bytes of the format's image.
    File,
    /// It has what is not in the image above.
    Backing,
    /// It has the data, where the image has metadata only.
    DataFile,
    /// It has a part of the disk.
    Extent,
    /// It has the bytes as they should be, where another is tested.
    Raw,
    /// It is tested.
    Test,
    /// It has the bytes, as others do.
    Copy,
}

impl Role {
    /// Its name, as options have it.
    pub fn name(self) -> &'static str {
        match self {
            Role::File => "file",
            Role::Backing => "backing",
            Role::DataFile => "data-file",
            Role::Extent => "extents",
            Role::Raw => "raw",
            Role::Test => "test",
            Role::Copy => "children",
        }
    }
}

bitflags! {
    /// How bytes may be made zero.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ZeroFlags: u32 {
        /// The room that they take may be given back.
        const MAY_UNMAP = 1 << 0;
        /// It is not done by writing zeros; where there is no better way, the request fails with [`Error::Unsupported`].
        const NO_FALLBACK = 1 << 1;
    }
}

/// What became of a request for zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroed {
    /// They are.
    Done,
    /// There is no better way than to write them.
    NotBuilt,
}

/// What is known of a stretch of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// How long it is, bytes.
    pub length: u64,
    /// What is there.
    pub kind: StatusKind,
    /// This node decides what is read, and not the one behind it (`backing`).
    pub is_here: bool,
    /// Where it is in the node with role [`Role::File`] (or [`Role::DataFile`]), if it is there as it is.
    pub file_offset: Option<u64>,
    /// It is there in compressed form.
    pub is_compressed: bool,
}

/// What is in a stretch of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// Bytes that must be read.
    Data,
    /// Zeros, for which no room is taken.
    Zero,
    /// Zeros, for which room is taken.
    ZeroAllocated,
}

impl StatusKind {
    /// It reads as zeros.
    pub fn is_zero(self) -> bool {
        self != StatusKind::Data
    }
}

/// How much of a disk is made ready before it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// Metadata, of which data's places are part.
    Metadata,
    /// Metadata, and room for data.
    Falloc,
    /// Metadata, and data, which is written as zeros.
    Full,
}

impl Preallocation {
    /// The modes, by name.
    pub const ALL: [(&str, Preallocation); 4] = [
        ("off", Preallocation::Off),
        ("metadata", Preallocation::Metadata),
        ("falloc", Preallocation::Falloc),
        ("full", Preallocation::Full),
    ];
}
