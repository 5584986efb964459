//! The disk in a qcow2 image.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::cache::Cache;
use super::check::MOST_L1_ENTRIES;
use super::entries::{Cluster, Layout, l2_table};
use super::header::{CompressionType, Encryption, Incompatible};
use super::refcounts::Refcounts;
use super::{Header, Metadata};
use crate::check::{CheckResult, Repair, Report};
use crate::driver::{Driver, InternalSnapshots, Preallocation, Role, Status, ZeroFlags, Zeroed};
use crate::filters::BlkdebugEvent;
use crate::range_lock::RangeLock;
use crate::{Edge, Error, IoVector, Node};

/// Most bytes of L2 tables in memory: enough for 256 GiB of disk in clusters of 64 KiB.
const CACHED_L2: u64 = 32 << 20;

/// Most clusters of a request that are written at once: what is known of each takes memory.
const MOST_WRITTEN: u64 = 4096;

/// The nodes that an image is made of.
#[derive(Clone, Debug)]
pub struct Files {
    /// The image's file.
    pub file: Arc<Node>,
    /// What has the bytes that are not in the image.
    pub backing: Option<Arc<Node>>,
    /// What has the data, where the image says so.
    pub data_file: Option<Arc<Node>>,
}

/// How an image is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageUse {
    /// Refuses writes, and changes nothing.
    pub read_only: bool,
    /// Gives room back to the file when clusters become free.
    pub discard: bool,
    /// Opens also what is marked as corrupt or as not closed, to check it.
    pub check: bool,
}

/// The disk in a qcow2 image.
pub struct Qcow2 {
    pub(super) file: Arc<Node>,
    pub(super) data_file: Option<Arc<Node>>,
    /// What has the bytes that are not in the image.
    pub(super) backing: Edge,
    pub(super) layout: Layout,
    pub(super) compression: CompressionType,
    image_use: ImageUse,
    is_read_only: AtomicBool,
    pub(super) length: AtomicU64,
    /// Requests: those that only use clusters as they are share them with others, those that give clusters other places do not.
    pub(super) requests: RangeLock,
    // Lock order: after `requests`; held while metadata is read and written, never while data is.
    pub(super) state: Mutex<State>,
}

/// What changes while an image is in use.
pub(super) struct State {
    pub(super) file: Arc<Node>,
    pub(super) data_file: Option<Arc<Node>>,
    pub(super) layout: Layout,
    pub(super) metadata: Metadata,
    /// The active L1 table.
    pub(super) l1: Vec<u64>,
    /// Entries of it that are not written.
    pub(super) l1_changed: BTreeSet<usize>,
    pub(super) l2: Cache,
    pub(super) refcounts: Refcounts,
    /// Clusters that nothing uses any more once the tables are on stable storage: the offset of each.
    pub(super) unused: Vec<u64>,
    /// Where further compressed data may be put, behind other such data: in a cluster that is used already.
    pub(super) compressed_end: Option<u64>,
    pub(super) is_read_only: bool,
}

impl Qcow2 {
    /// Opens the image in `files`, whose metadata was read.
    pub async fn open(files: Files, metadata: Metadata, image_use: ImageUse) -> Result<Qcow2, Error> {
        let header = &metadata.header;
        if header.encryption != Encryption::None {
            return Err(Error::Unsupported("encrypted qcow2 images are not built: their data cannot be used".into()));
        }
        if header.has_data_file() && files.data_file.is_none() {
            return Err(Error::Unsupported("'data-file' is required for this image".into()));
        }
        if header.is_corrupt() && !image_use.read_only && !image_use.check {
            let text = "qcow2: Image is corrupt; cannot be opened read/write";
            return Err(Error::Unsupported(text.into()));
        }
        let layout = Layout::of(header);
        let l1_bytes = header.l1_entries as usize * 8;
        let content = files.file.read_vec(header.l1_table, l1_bytes).await?;
        let l1: Vec<u64> = content.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
        let mut refcounts = Refcounts::read(&files.file, header).await?;
        refcounts.protect(header.l1_table, l1_bytes as u64);
        for entry in &l1 {
            if let Some((table, _)) = l2_table(*entry, layout)? {
                refcounts.protect(table, 1);
            }
        }
        let (file_end, mut snapshot_entries) = (files.file.length().next_multiple_of(layout.cluster()), 0);
        for snapshot in &metadata.snapshots {
            let bytes = u64::from(snapshot.l1_entries) * 8;
            if snapshot.l1_table.checked_add(bytes).is_none_or(|end| end > file_end) {
                // There is nothing to be protected. Who uses the snapshot is told.
                continue;
            }
            snapshot_entries += u64::from(snapshot.l1_entries);
            if snapshot_entries > MOST_L1_ENTRIES {
                let text = format!("the L1 tables of snapshots have more than {MOST_L1_ENTRIES} entries");
                return Err(Error::Unsupported(text));
            }
            refcounts.protect(snapshot.l1_table, bytes);
        }
        let is_dirty = header.is_dirty();
        let image = Qcow2 {
            layout,
            compression: header.compression,
            image_use,
            is_read_only: AtomicBool::new(image_use.read_only),
            length: AtomicU64::new(header.size),
            requests: RangeLock::default(),
            state: Mutex::new(State {
                file: files.file.clone(),
                data_file: files.data_file.clone(),
                layout,
                metadata,
                l1,
                l1_changed: BTreeSet::new(),
                l2: Cache::new(layout.cluster(), CACHED_L2, [BlkdebugEvent::L2Load, BlkdebugEvent::L2Update]),
                refcounts,
                unused: Vec::new(),
                compressed_end: None,
                is_read_only: image_use.read_only,
            }),
            file: files.file,
            data_file: files.data_file,
            backing: Edge::new(files.backing),
        };
        if !image_use.read_only {
            if is_dirty && !image_use.check {
                let mut report = |line: &str| tracing::debug!("qcow2: {line}");
                let result = image.check_image(Repair::All, &mut report).await?;
                if !result.is_usable() {
                    return Err(Error::Corrupt(
                        "the image was not closed, and its refcounts cannot be repaired".into(),
                    ));
                }
            }
            image.state.lock().await.clear_unknown_features().await?;
        }
        Ok(image)
    }

    /// Where data is.
    pub(super) fn data(&self) -> &Node {
        self.data_file.as_ref().unwrap_or(&self.file)
    }

    /// What the image says of itself, as of now.
    pub async fn metadata(&self) -> Metadata {
        self.state.lock().await.metadata.clone()
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        self.layout.cluster()
    }
}

impl State {
    /// What an L2 entry says of the cluster at an offset of the disk.
    pub(super) async fn cluster_at(&mut self, offset: u64) -> Result<Cluster, Error> {
        let layout = self.layout;
        let entry = self.l1.get(layout.l1_index(offset)).copied().unwrap_or(0);
        let Some((table, _)) = l2_table(entry, layout)? else { return Ok(Cluster::NONE) };
        let at = table + layout.l2_index(offset) * layout.entry();
        let entry = self.l2.u64(&self.file, at).await?;
        let bitmap = if layout.entry() == 16 { self.l2.u64(&self.file, at + 8).await? } else { 0 };
        Cluster::decode(entry, bitmap, layout)
    }

    /// Bits whose meaning is lost by writing without knowing them.
    async fn clear_unknown_features(&mut self) -> Result<(), Error> {
        let header = &mut self.metadata.header;
        let known = header.autoclear_features & Header::KNOWN_AUTOCLEAR;
        if header.version < 3 || known == header.autoclear_features {
            return Ok(());
        }
        header.autoclear_features = known;
        self.file.write_bytes(Header::AUTOCLEAR_AT, &known.to_be_bytes()).await?;
        self.file.flush().await
    }

    /// Marks the image as corrupt, so that nothing is written to it any more, and says why.
    pub(super) async fn mark_corrupt(&mut self, error: Error) -> Error {
        if let (Error::Corrupt(why), false) = (&error, self.is_read_only) {
            tracing::error!("qcow2: Marking image as corrupt: {why}; further corruption events will be suppressed");
            self.is_read_only = true;
            let header = &self.metadata.header;
            let features = header.incompatible_features | Incompatible::CORRUPT;
            // Where this fails, too, there is nothing else to be done.
            let _ = self.set_incompatible(features).await;
        }
        error
    }

    /// Refuses changes after the image was found to be corrupt.
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        if self.is_read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }
}

#[async_trait]
impl Driver for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }
    fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }
    fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Acquire)
    }
    fn can_set_read_only(&self) -> bool {
        true
    }
    async fn set_read_only(&self, read_only: bool) -> Result<(), Error> {
        if read_only {
            self.close().await?;
        }
        let mut state = self.state.lock().await;
        if !read_only {
            if state.metadata.header.is_corrupt() {
                return Err(Error::Unsupported("qcow2: Image is corrupt; it cannot be written".into()));
            }
            state.clear_unknown_features().await?;
        }
        state.is_read_only = read_only;
        self.is_read_only.store(read_only, Ordering::Release);
        Ok(())
    }
    fn cluster_size(&self) -> u64 {
        self.layout.cluster()
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        self.read_disk(offset, to).await
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let most = (MOST_WRITTEN << self.layout.cluster_bits) as usize;
        let mut done = 0;
        while done < from.len() {
            let part = (from.len() - done).min(most);
            self.write_disk(offset + done as u64, from.slice(done, part)).await?;
            done += part;
        }
        Ok(())
    }
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        self.make_zero(offset, length, flags).await
    }
    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.discard_disk(offset, length).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.flush_all().await
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        self.status_of(offset, length).await
    }
    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        self.resize(length, preallocation).await?;
        self.length.store(length, Ordering::Release);
        Ok(())
    }
    fn internal_snapshots(&self) -> Option<&dyn InternalSnapshots> {
        Some(self)
    }
    async fn check(&self, repair: Repair, report: Report<'_>) -> Result<CheckResult, Error> {
        self.check_image(repair, report).await
    }
    async fn write_compressed(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let data = self.compress_cluster(from.clone()).await;
        self.write_compressed_cluster(offset, from, data).await
    }
    async fn change_backing(&self, backing: Option<(&str, Option<&str>)>) -> Result<(), Error> {
        self.name_backing(backing).await
    }
    async fn make_empty(&self) -> Result<(), Error> {
        self.forget_all().await
    }
    async fn compress(&self, plain: IoVector) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.compress_cluster(plain).await)
    }
    async fn write_as_compressed(&self, offset: u64, from: IoVector, compressed: Option<Vec<u8>>) -> Result<(), Error> {
        self.write_compressed_cluster(offset, from, compressed).await
    }
    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        let data_file = self.data_file.iter().map(|node| (Role::DataFile, node.clone()));
        let backing = self.backing.node().map(|node| (Role::Backing, node));
        std::iter::once((Role::File, self.file.clone())).chain(data_file).chain(backing).collect()
    }
    fn edge(&self, role: Role) -> Option<&Edge> {
        (role == Role::Backing).then_some(&self.backing)
    }
    async fn close(&self) -> Result<(), Error> {
        if self.is_read_only() {
            return Ok(());
        }
        self.flush_all().await?;
        // What became unused by that is free in the image, too.
        self.flush_all().await
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Qcow2 {
    /// Gives room back to the file, if that is wanted.
    pub(super) async fn give_back(&self, clusters: &[u64]) {
        if self.image_use.discard {
            for offset in clusters {
                // It is only room.
                let _ = self.data().discard(*offset, self.layout.cluster()).await;
            }
        }
    }
}
