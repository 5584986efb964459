//! What is known of disks and their nodes.

use block::qcow2::Qcow2;
use block::{Backend, Count, Counted, HostFile, Node, Role};
use futures_executor::block_on;

use super::internal_snapshots::SnapshotInfo;
use super::number;
use crate::commands::Context;
use crate::commands::declare::commands;
use crate::error::Error;
use crate::schema::{Empty, Wire};
use crate::{enumeration, structure};

enumeration! {
    /// Whether requests of the guest wait because they failed.
    pub(crate) enum BlockDeviceIoStatus {
        /// None does.
        "ok" => Ok,
        /// One failed.
        "failed" => Failed,
        /// One failed for want of room on the host.
        "nospace" => NoSpace,
    }
}

enumeration! {
    /// What is done with zeros that are written as data.
    pub(crate) enum DetectZeroes {
        /// They are written.
        "off" => Off,
        /// They become zeros in the way that the node's driver has for that.
        "on" => On,
        /// They do, and may give their room back.
        "unmap" => Unmap,
    }
}

structure! {
    /// How writes go through the host's cache.
    pub(crate) struct CacheInfo {
        /// A write is complete when it is in the host's cache.
        "writeback" => writeback: bool,
        /// The host's cache is left out.
        "direct" => direct: bool,
        /// Nothing is put on stable storage.
        "no-flush" => no_flush: bool,
    }
}

/// The image behind another one. It has a type of its own, since a type cannot contain itself.
pub(crate) struct BackingImage(Box<ImageInfo>);

impl Wire for BackingImage {
    const TYPE: &'static crate::schema::Type = &crate::schema::Type::Any;

    fn from_wire(value: serde_json::Value, location: &crate::schema::Location<'_>) -> Result<BackingImage, Error> {
        ImageInfo::from_wire(value, location).map(|image| BackingImage(Box::new(image)))
    }

    fn to_wire(&self) -> serde_json::Value {
        self.0.to_wire()
    }
}

structure! {
    /// What is known of an image.
    pub(crate) struct ImageInfo {
        /// Its file.
        "filename" => filename: String,
        /// Its format, or the protocol of a file.
        "format" => format: String,
        /// Some data was not stored when it was last in use.
        "dirty-flag" => dirty: Option<bool>,
        /// Bytes that its file takes on the host.
        "actual-size" => actual_size: Option<i64>,
        /// Length of the disk, bytes.
        "virtual-size" => virtual_size: i64,
        /// Bytes of a cluster.
        "cluster-size" => cluster_size: Option<i64>,
        /// The file behind it, as the image names it.
        "backing-filename" => backing_filename: Option<String>,
        /// The file behind it.
        "full-backing-filename" => full_backing_filename: Option<String>,
        /// The format of that file, as the image says.
        "backing-filename-format" => backing_format: Option<String>,
        /// States of the disk that it keeps.
        "snapshots" => snapshots: Option<Vec<SnapshotInfo>>,
        /// The image behind it.
        "backing-image" => backing_image: Option<BackingImage>,
    }
}

structure! {
    /// A bitmap of what changed on a node.
    pub(crate) struct BlockDirtyInfo {
        /// Its name.
        "name" => name: Option<String>,
        /// Bytes that are marked.
        "count" => count: i64,
        /// Bytes that a bit stands for.
        "granularity" => granularity: i64,
        /// It marks writes.
        "recording" => recording: bool,
        /// A job or an export uses it.
        "busy" => busy: bool,
        /// It is kept in the image.
        "persistent" => persistent: bool,
    }
}

structure! {
    /// What is known of a node.
    pub(crate) struct BlockDeviceInfo {
        /// Its file.
        "file" => file: String,
        /// Its name.
        "node-name" => node: Option<String>,
        /// Writes are refused.
        "ro" => read_only: bool,
        /// Its driver.
        "drv" => driver: String,
        /// The file behind it.
        "backing_file" => backing_file: Option<String>,
        /// How many nodes stand behind it.
        "backing_file_depth" => depth: i64,
        /// It may be used.
        "active" => active: bool,
        /// Its data is encrypted.
        "encrypted" => encrypted: bool,
        /// What is done with zeros that are written as data.
        "detect_zeroes" => detect_zeroes: DetectZeroes,
        /// Most bytes a second; 0: as many as there are. Nodes have no such bounds here.
        "bps" => bps: i64,
        /// The same of reads.
        "bps_rd" => bps_read: i64,
        /// The same of writes.
        "bps_wr" => bps_write: i64,
        /// Most requests a second.
        "iops" => iops: i64,
        /// The same of reads.
        "iops_rd" => iops_read: i64,
        /// The same of writes.
        "iops_wr" => iops_write: i64,
        /// The image.
        "image" => image: ImageInfo,
        /// How writes go through the host's cache.
        "cache" => cache: CacheInfo,
        /// From which offset on writes are told of; 0: none is.
        "write_threshold" => write_threshold: i64,
        /// Bitmaps of what changed on it.
        "dirty-bitmaps" => bitmaps: Option<Vec<BlockDirtyInfo>>,
    }
}

structure! {
    /// A disk of the machine.
    pub(crate) struct BlockInfo {
        /// The user's name for it, or nothing.
        "device" => device: String,
        /// The guest's device, by its identifier or path.
        "qdev" => qdev: Option<String>,
        /// Always `unknown`.
        "type" => kind: String,
        /// It can be changed while the machine runs.
        "removable" => removable: bool,
        /// The guest keeps it from being changed.
        "locked" => locked: bool,
        /// The drive's tray is open.
        "tray_open" => tray_open: Option<bool>,
        /// The medium.
        "inserted" => inserted: Option<BlockDeviceInfo>,
        /// Whether requests of the guest wait because they failed.
        "io-status" => io_status: Option<BlockDeviceIoStatus>,
    }
}

structure! {
    /// Arguments of `query-named-block-nodes`.
    pub(crate) struct NodesArguments {
        /// Without the images behind each.
        "flat" => flat: Option<bool>,
    }
}

structure! {
    /// Arguments of `query-blockstats`.
    pub(crate) struct StatisticsArguments {
        /// Those of all nodes instead of those of the users' disks.
        "query-nodes" => nodes: Option<bool>,
    }
}

structure! {
    /// What was asked of a disk.
    pub(crate) struct BlockDeviceStats {
        /// Bytes that were read.
        "rd_bytes" => read_bytes: i64,
        /// Bytes that were written.
        "wr_bytes" => write_bytes: i64,
        /// Bytes that were discarded.
        "unmap_bytes" => unmap_bytes: i64,
        /// Reads.
        "rd_operations" => reads: i64,
        /// Writes.
        "wr_operations" => writes: i64,
        /// Flushes.
        "flush_operations" => flushes: i64,
        /// Discards.
        "unmap_operations" => unmaps: i64,
        /// How long the reads took, nanoseconds.
        "rd_total_time_ns" => read_time: i64,
        /// How long the writes took, nanoseconds.
        "wr_total_time_ns" => write_time: i64,
        /// How long the flushes took, nanoseconds.
        "flush_total_time_ns" => flush_time: i64,
        /// How long the discards took, nanoseconds.
        "unmap_total_time_ns" => unmap_time: i64,
        /// End of the write that came furthest, bytes.
        "wr_highest_offset" => highest_write: i64,
        /// Reads that were put together with others.
        "rd_merged" => merged_reads: i64,
        /// Writes that were put together with others.
        "wr_merged" => merged_writes: i64,
        /// Discards that were put together with others.
        "unmap_merged" => merged_unmaps: i64,
        /// For how long there was no request, nanoseconds.
        "idle_time_ns" => idle: Option<i64>,
        /// Reads that failed.
        "failed_rd_operations" => failed_reads: i64,
        /// Writes that failed.
        "failed_wr_operations" => failed_writes: i64,
        /// Flushes that failed.
        "failed_flush_operations" => failed_flushes: i64,
        /// Discards that failed.
        "failed_unmap_operations" => failed_unmaps: i64,
        /// Reads that could not be made.
        "invalid_rd_operations" => invalid_reads: i64,
        /// Writes that could not be made.
        "invalid_wr_operations" => invalid_writes: i64,
        /// Flushes that could not be made.
        "invalid_flush_operations" => invalid_flushes: i64,
        /// Discards that could not be made.
        "invalid_unmap_operations" => invalid_unmaps: i64,
        /// Requests that could not be made count as such that end the idle time.
        "account_invalid" => account_invalid: bool,
        /// Requests that failed count as such that end the idle time.
        "account_failed" => account_failed: bool,
    }
}

/// Statistics of the node below another one.
pub(crate) struct StatsBelow(Box<BlockStats>);

impl Wire for StatsBelow {
    const TYPE: &'static crate::schema::Type = &crate::schema::Type::Any;

    fn from_wire(value: serde_json::Value, location: &crate::schema::Location<'_>) -> Result<StatsBelow, Error> {
        BlockStats::from_wire(value, location).map(|stats| StatsBelow(Box::new(stats)))
    }

    fn to_wire(&self) -> serde_json::Value {
        self.0.to_wire()
    }
}

structure! {
    /// Statistics of a disk or a node.
    pub(crate) struct BlockStats {
        /// The user's name for the disk.
        "device" => device: Option<String>,
        /// The guest's device, by its identifier or path.
        "qdev" => qdev: Option<String>,
        /// The name of the node.
        "node-name" => node: Option<String>,
        /// What was asked of it.
        "stats" => stats: BlockDeviceStats,
        /// Those of the file.
        "parent" => parent: Option<StatsBelow>,
        /// Those of what is behind it.
        "backing" => backing: Option<StatsBelow>,
    }
}

commands! {
    /// The disks of the machine.
    "query-block" Blocking => query_block(Empty) -> Vec<BlockInfo>,
    /// All nodes of the block graph.
    "query-named-block-nodes" Blocking => query_nodes(NodesArguments) -> Vec<BlockDeviceInfo>,
    /// What was asked of the machine's disks, or of all nodes.
    "query-blockstats" Blocking => query_statistics(StatisticsArguments) -> Vec<BlockStats>,
}

fn query_block(context: &Context, _: Empty) -> Result<Vec<BlockInfo>, Error> {
    let info = |disk: &std::sync::Arc<Backend>| {
        let user = disk.user();
        let can_stop = user.device.is_some();
        BlockInfo {
            device: disk.name().to_owned(),
            qdev: user.device,
            kind: "unknown".into(),
            removable: user.is_removable,
            locked: false,
            // Trays are not built: they stay closed.
            tray_open: user.is_removable.then_some(false),
            inserted: disk.node().map(|node| node_info(&node, disk.is_write_back(), false)),
            io_status: can_stop.then_some(match user.io_status {
                block::IoStatus::Ok => BlockDeviceIoStatus::Ok,
                block::IoStatus::Failed => BlockDeviceIoStatus::Failed,
                block::IoStatus::NoSpace => BlockDeviceIoStatus::NoSpace,
            }),
        }
    };
    Ok(disks_of_users(context).iter().map(info).collect())
}

/// The disks that devices have or the user named, and not those of exports.
fn disks_of_users(context: &Context) -> Vec<std::sync::Arc<Backend>> {
    let mut disks = context.vm.disks().backends();
    disks.retain(|disk| !disk.name().is_empty() || disk.user().device.is_some());
    disks
}

fn query_nodes(context: &Context, arguments: NodesArguments) -> Result<Vec<BlockDeviceInfo>, Error> {
    let is_flat = arguments.flat.unwrap_or(false);
    Ok(context.vm.disks().nodes().iter().map(|node| node_info(node, true, is_flat)).collect())
}

fn filename(node: &Node) -> String {
    node.filename().unwrap_or_default()
}

fn node_info(node: &Node, write_back: bool, is_flat: bool) -> BlockDeviceInfo {
    let settings = node.settings();
    let mut depth = 0;
    let mut behind = node.backing();
    while let Some(next) = behind {
        depth += 1;
        behind = next.backing();
    }
    let bitmap = |bitmap: std::sync::Arc<block::DirtyBitmap>| BlockDirtyInfo {
        name: bitmap.name().map(str::to_owned),
        count: number(bitmap.count()),
        granularity: number(bitmap.granularity()),
        recording: bitmap.is_recording(),
        busy: false,
        persistent: false,
    };
    let bitmaps: Vec<_> = node.bitmaps().into_iter().map(bitmap).collect();
    BlockDeviceInfo {
        file: filename(node),
        node: Some(node.name().to_owned()),
        read_only: node.is_read_only(),
        driver: node.driver().name().to_owned(),
        backing_file: node.backing().map(|node| filename(&node)),
        depth,
        active: true,
        encrypted: false,
        detect_zeroes: match settings.detect_zeroes {
            block::DetectZeroes::Off => DetectZeroes::Off,
            block::DetectZeroes::On => DetectZeroes::On,
            block::DetectZeroes::Unmap => DetectZeroes::Unmap,
        },
        bps: 0,
        bps_read: 0,
        bps_write: 0,
        iops: 0,
        iops_read: 0,
        iops_write: 0,
        image: image_info(node, is_flat),
        cache: CacheInfo { writeback: write_back, direct: settings.direct, no_flush: settings.no_flush },
        write_threshold: 0,
        bitmaps: (!bitmaps.is_empty()).then_some(bitmaps),
    }
}

/// The host's file that has a node's bytes, below as many nodes as it takes.
fn actual_size(node: &Node) -> Option<u64> {
    match node.driver_as::<HostFile>() {
        Some(file) => file.room(),
        None => actual_size(&*node.child(Role::File)?),
    }
}

fn image_info(node: &Node, is_flat: bool) -> ImageInfo {
    let metadata = node.driver_as::<Qcow2>().map(|image| block_on(image.metadata()));
    let kept = node.driver().internal_snapshots().map(|snapshots| block_on(snapshots.list())).unwrap_or_default();
    let cluster = node.driver().cluster_size();
    let behind = node.backing();
    ImageInfo {
        filename: filename(node),
        format: node.driver().name().to_owned(),
        dirty: Some(metadata.as_ref().is_some_and(|metadata| metadata.header.is_dirty())),
        actual_size: actual_size(node).map(number),
        virtual_size: number(node.length()),
        cluster_size: (cluster > 1).then(|| number(cluster)),
        backing_filename: metadata.as_ref().and_then(|metadata| metadata.backing_file.clone()),
        full_backing_filename: behind.as_ref().map(|node| filename(node)),
        backing_format: metadata.and_then(|metadata| metadata.extensions.backing_format),
        snapshots: (!kept.is_empty()).then(|| kept.into_iter().map(SnapshotInfo::from).collect()),
        backing_image: behind.filter(|_| !is_flat).map(|node| BackingImage(Box::new(image_info(&node, is_flat)))),
    }
}

fn query_statistics(context: &Context, arguments: StatisticsArguments) -> Result<Vec<BlockStats>, Error> {
    let disks = context.vm.disks();
    if arguments.nodes.unwrap_or(false) {
        return Ok(disks.nodes().iter().map(|node| node_statistics(node, false)).collect());
    }
    let of_user = |disk: &std::sync::Arc<Backend>| {
        let below = disk.node().map(|node| node_statistics(&node, true));
        let highest = disk.node().map_or(0, |node| node.highest_write());
        let (node, parent, backing) =
            below.map_or((None, None, None), |below| (below.node, below.parent, below.backing));
        let stats = statistics(disk.statistics(), highest);
        BlockStats { device: Some(disk.name().to_owned()), qdev: disk.user().device, node, stats, parent, backing }
    };
    Ok(disks_of_users(context).iter().map(of_user).collect())
}

/// Nodes count nothing themselves but how far writes came.
fn node_statistics(node: &Node, with_backing: bool) -> BlockStats {
    let below = |role: Role| node.child(role).map(|node| StatsBelow(Box::new(node_statistics(&node, with_backing))));
    BlockStats {
        device: None,
        qdev: None,
        node: Some(node.name().to_owned()),
        stats: statistics(&block::Statistics::default(), node.highest_write()),
        parent: below(Role::File),
        backing: if with_backing { below(Role::Backing) } else { None },
    }
}

fn statistics(counted: &block::Statistics, highest_write: u64) -> BlockDeviceStats {
    let [read, write, flush, unmap] =
        [Counted::Read, Counted::Write, Counted::Flush, Counted::Unmap].map(|kind| counted.of(kind));
    let time = |count: Count| i64::try_from(count.time.as_nanos()).unwrap_or(i64::MAX);
    BlockDeviceStats {
        read_bytes: number(read.bytes),
        write_bytes: number(write.bytes),
        unmap_bytes: number(unmap.bytes),
        reads: number(read.operations),
        writes: number(write.operations),
        flushes: number(flush.operations),
        unmaps: number(unmap.operations),
        read_time: time(read),
        write_time: time(write),
        flush_time: time(flush),
        unmap_time: time(unmap),
        highest_write: number(highest_write),
        merged_reads: 0,
        merged_writes: 0,
        merged_unmaps: 0,
        idle: counted.idle().map(|idle| i64::try_from(idle.as_nanos()).unwrap_or(i64::MAX)),
        failed_reads: number(read.failed),
        failed_writes: number(write.failed),
        failed_flushes: number(flush.failed),
        failed_unmaps: number(unmap.failed),
        invalid_reads: number(read.invalid),
        invalid_writes: number(write.invalid),
        invalid_flushes: number(flush.invalid),
        invalid_unmaps: number(unmap.invalid),
        account_invalid: true,
        account_failed: true,
    }
}
