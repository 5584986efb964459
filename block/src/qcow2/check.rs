//! Checks that refcounts are what the tables say, and makes them so.

use rustc_hash::{FxHashMap, FxHashSet};

use super::entries::{Cluster, l2_table};
use super::header::Incompatible;
use super::image::{Qcow2, State};
use super::{BitmapFlags, Header};
use crate::check::{CheckResult, Repair, Report};
use crate::{Error, Node};

/// Most entries of L1 tables that are looked at, those of internal snapshots included; also of bitmaps' tables.
pub(super) const MOST_L1_ENTRIES: u64 = 64 << 20;

/// How often each cluster of the file is used, by its number.
type References = FxHashMap<u64, u64>;

struct Check<'a> {
    state: &'a mut State,
    file: std::sync::Arc<Node>,
    references: References,
    result: CheckResult,
    report: Report<'a>,
}

impl Qcow2 {
    /// Compares refcounts with the tables, and repairs what is wanted.
    pub(super) async fn check_image(&self, repair: Repair, report: Report<'_>) -> Result<CheckResult, Error> {
        let _turn = self.requests.exclusive(0..u64::MAX).await;
        // What is in memory is not looked at.
        if repair != Repair::Nothing {
            self.flush_all().await?;
        }
        let mut state = self.state.lock().await;
        let file = state.file.clone();
        let (references, result) = (References::default(), CheckResult::default());
        let mut check = Check { state: &mut state, file, references, result, report };
        check.count().await?;
        check.compare(repair).await?;
        check.check_copied(repair).await?;
        let mut result = check.result;
        if repair.includes_errors() && result.is_usable() {
            state.write_metadata().await?;
            state.file.flush().await?;
            state.clear_incompatible(Incompatible::DIRTY | Incompatible::CORRUPT).await?;
        } else if repair != Repair::Nothing {
            state.write_metadata().await?;
            state.file.flush().await?;
        }
        result.total_clusters = state.metadata.header.size.div_ceil(self.layout.cluster());
        Ok(result)
    }
}

impl Check<'_> {
    fn corrupt(&mut self, text: &str) {
        self.result.corruptions += 1;
        (self.report)(text);
    }

    /// Counts uses of the clusters that some bytes of the file are in.
    fn used(&mut self, offset: u64, length: u64, times: u64) {
        let bits = self.state.layout.cluster_bits;
        if length == 0 {
            return;
        }
        let Some(last) = offset.checked_add(length - 1) else {
            self.corrupt(&format!("ERROR: {length} bytes at {offset:#x} are beyond what a file can have"));
            return;
        };
        for cluster in offset >> bits..=last >> bits {
            let count = self.references.entry(cluster).or_default();
            *count = count.saturating_add(times);
        }
    }

    /// Goes through all metadata.
    async fn count(&mut self) -> Result<(), Error> {
        let header = self.state.metadata.header.clone();
        let cluster = header.cluster_size();
        self.used(0, cluster, 1);
        self.used(header.refcount_table, u64::from(header.refcount_table_clusters) * cluster, 1);
        for block in self.state.refcounts.blocks() {
            self.used(block, cluster, 1);
        }
        self.count_bitmaps().await?;
        if let Some((offset, length)) = self.state.metadata.extensions.encryption_header {
            self.used(offset, length, 1);
        }
        // Tables that several snapshots share are looked at once.
        let mut l1_tables: FxHashMap<(u64, u32), u64> = FxHashMap::default();
        *l1_tables.entry((header.l1_table, header.l1_entries)).or_default() += 1;
        for snapshot in &self.state.metadata.snapshots {
            *l1_tables.entry((snapshot.l1_table, snapshot.l1_entries)).or_default() += 1;
        }
        let entries: u64 = l1_tables.keys().map(|(_, entries)| u64::from(*entries)).sum();
        if entries > MOST_L1_ENTRIES {
            let text = format!("the L1 tables have {entries} entries; at most {MOST_L1_ENTRIES} can be checked");
            return Err(Error::Unsupported(text));
        }
        let table_bytes = self.state.metadata.snapshot_table_bytes();
        self.used(header.snapshot_table, table_bytes, 1);
        let mut l2_tables: FxHashMap<u64, u64> = FxHashMap::default();
        for ((offset, entries), times) in l1_tables {
            let bytes = u64::from(entries) * 8;
            self.used(offset, bytes, times);
            if offset.checked_add(bytes).is_none_or(|end| end > self.file.length().next_multiple_of(cluster)) {
                self.corrupt(&format!("ERROR L1 table at {offset:#x} is not within the file"));
                continue;
            }
            let content = self.file.read_vec(offset, bytes as usize).await?;
            for bytes in content.as_chunks().0 {
                match l2_table(u64::from_be_bytes(*bytes), self.state.layout) {
                    Ok(Some((table, _))) => {
                        let count = l2_tables.entry(table).or_default();
                        *count = count.saturating_add(times);
                    }
                    Ok(None) => {}
                    Err(error) => self.corrupt(&format!("ERROR {error}")),
                }
            }
        }
        for (table, times) in l2_tables {
            self.used(table, cluster, times);
            self.count_l2(table, times).await?;
        }
        self.count_allocated().await
    }

    async fn count_l2(&mut self, table: u64, times: u64) -> Result<(), Error> {
        let layout = self.state.layout;
        if table >= self.file.length() {
            self.corrupt(&format!("ERROR L2 table at {table:#x} is not within the file"));
            return Ok(());
        }
        let content = self.file.read_vec(table, layout.cluster() as usize).await?;
        for index in 0..layout.l2_entries() {
            match decode_at(&content, index, layout) {
                // Data in a file of its own is not counted.
                Ok(cluster) if self.state.data_file.is_none() => {
                    if let Some((host, count)) = cluster.host_clusters(layout) {
                        self.used(host, count * layout.cluster(), times);
                    }
                }
                Ok(_) => {}
                Err(error) => self.corrupt(&format!("ERROR {error}")),
            }
        }
        Ok(())
    }

    /// How much of the disk is there, and in how many stretches.
    async fn count_allocated(&mut self) -> Result<(), Error> {
        let layout = self.state.layout;
        let mut seen = FxHashSet::default();
        for index in 0..self.state.l1.len() {
            // Counted within each table.
            let mut next = None;
            let Ok(Some((table, _))) = l2_table(self.state.l1[index], layout) else { continue };
            if table >= self.file.length() || !seen.insert(table) {
                continue;
            }
            let content = self.file.read_vec(table, layout.cluster() as usize).await?;
            for entry in 0..layout.l2_entries() {
                let place = match decode_at(&content, entry, layout) {
                    Ok(Cluster::Plain { host: Some((host, _)), .. }) => host,
                    Ok(Cluster::Compressed { .. }) => {
                        // Compressed data is never where the data before would go on.
                        self.result.allocated_clusters += 1;
                        self.result.compressed_clusters += 1;
                        self.result.fragmented_clusters += 1;
                        continue;
                    }
                    _ => continue,
                };
                self.result.allocated_clusters += 1;
                if next.is_some_and(|next| next != place) {
                    self.result.fragmented_clusters += 1;
                }
                next = Some(place + layout.cluster());
            }
        }
        Ok(())
    }

    async fn count_bitmaps(&mut self) -> Result<(), Error> {
        let cluster = self.state.layout.cluster();
        if let Some((offset, bytes)) = self.state.metadata.bitmap_directory() {
            self.used(offset, bytes, 1);
        }
        let bitmaps = self.state.metadata.bitmaps.clone();
        let entries: u64 = bitmaps.iter().map(|bitmap| u64::from(bitmap.table.1)).sum();
        if entries > MOST_L1_ENTRIES {
            let text =
                format!("the tables of bitmaps have {entries} entries; at most {MOST_L1_ENTRIES} can be checked");
            return Err(Error::Unsupported(text));
        }
        for bitmap in bitmaps {
            let (offset, entries) = bitmap.table;
            let bytes = u64::from(entries) * 8;
            self.used(offset, bytes, 1);
            if offset.checked_add(bytes).is_none_or(|end| end > self.file.length().next_multiple_of(cluster)) {
                self.corrupt(&format!("ERROR the table of bitmap '{}' is not within the file", bitmap.name));
                continue;
            }
            let content = self.file.read_vec(offset, bytes as usize).await?;
            for entry in content.as_chunks().0 {
                let place = u64::from_be_bytes(*entry) & BitmapFlags::TABLE_OFFSET;
                if place != 0 {
                    self.used(place, cluster, 1);
                }
            }
        }
        Ok(())
    }

    /// Compares with the refcounts.
    async fn compare(&mut self, repair: Repair) -> Result<(), Error> {
        let file = self.file.clone();
        let bits = self.state.layout.cluster_bits;
        let mut clusters: Vec<u64> = self.references.keys().copied().collect();
        clusters.extend(self.state.refcounts.counted(&file).await?);
        clusters.sort_unstable();
        clusters.dedup();
        let end = self.file.length().div_ceil(self.state.layout.cluster());
        for cluster in clusters {
            let references = self.references.get(&cluster).copied().unwrap_or(0);
            let count = self.state.refcounts.get(&file, cluster).await?;
            // Leaked clusters are part of the image, too.
            if references > 0 || count > 0 && cluster < end {
                self.result.image_end_offset = self.result.image_end_offset.max((cluster + 1) << bits);
            }
            // Room that the file does not have is not lost.
            if count == references || references == 0 && cluster >= end {
                continue;
            }
            let is_leak = count > references;
            let is_repaired = if is_leak { repair.includes_leaks() } else { repair.includes_errors() };
            let what = match (is_leak, is_repaired) {
                (true, false) => "Leaked",
                (false, false) => "ERROR",
                (_, true) => "Repairing",
            };
            (self.report)(&format!("{what} cluster {cluster} refcount={count} reference={references}"));
            let done = is_repaired && self.set_count(cluster, references).await?;
            match (is_leak, done) {
                (true, true) => self.result.leaks_fixed += 1,
                (true, false) => self.result.leaks += 1,
                (false, true) => self.result.corruptions_fixed += 1,
                (false, false) => self.result.corruptions += 1,
            }
        }
        Ok(())
    }

    async fn set_count(&mut self, cluster: u64, count: u64) -> Result<bool, Error> {
        if count > self.state.refcounts.most() {
            (self.report)(&format!("ERROR cluster {cluster} is used {count} times, which no refcount can say"));
            return Ok(false);
        }
        let file = self.file.clone();
        match self.state.refcounts.repair(&file, cluster, count).await {
            Ok(()) => Ok(true),
            Err(Error::Corrupt(why)) => {
                (self.report)(&format!("ERROR {why}"));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Entries of the active tables say that a cluster is theirs alone if and only if it is.
    async fn check_copied(&mut self, repair: Repair) -> Result<(), Error> {
        let (result, report) = (&mut self.result, &mut *self.report);
        let mut wrong = |text: &str| {
            if repair.includes_errors() {
                report(&format!("Repairing {text}"));
                result.corruptions_fixed += 1;
            } else {
                report(&format!("ERROR {text}"));
                result.corruptions += 1;
            }
            repair.includes_errors()
        };
        self.state.check_copied(&mut wrong).await
    }
}

fn decode_at(content: &[u8], index: u64, layout: super::entries::Layout) -> Result<Cluster, Error> {
    let at = (index * layout.entry()) as usize;
    let half = |at: usize| {
        content.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
    };
    let bitmap = if layout.entry() == 16 { half(at + 8) } else { 0 };
    Cluster::decode(half(at), bitmap, layout)
}

impl State {
    /// Writes the header without these incompatible features.
    pub(super) async fn clear_incompatible(&mut self, features: u64) -> Result<(), Error> {
        self.set_incompatible(self.metadata.header.incompatible_features & !features).await
    }

    /// Writes the incompatible features into the header, if they are others.
    pub(super) async fn set_incompatible(&mut self, features: u64) -> Result<(), Error> {
        let header = &mut self.metadata.header;
        if header.version < 3 || header.incompatible_features == features {
            return Ok(());
        }
        self.file.write_bytes(Header::INCOMPATIBLE_AT, &features.to_be_bytes()).await?;
        self.file.flush().await?;
        header.incompatible_features = features;
        Ok(())
    }
}
