//! How often each cluster of the file is used, and which are free.

use rustc_hash::FxHashSet;

use super::cache::Cache;
use super::header::Header;
use crate::filters::BlkdebugEvent;
use crate::{Error, Node};

/// Most bytes of refcount blocks in memory.
const CACHED: u64 = 4 << 20;
/// Most bytes of the refcount table.
const MOST_TABLE: u64 = 8 << 20;
/// Where the header has the refcount table's offset and length.
const TABLE_FIELDS: u64 = 48;
/// Where an entry's offset is in it.
const OFFSET: u64 = 0xffff_ffff_ffff_fe00;

/// The refcounts of an image.
pub(super) struct Refcounts {
    /// The refcount table: offsets of the blocks, 0 where there is none.
    table: Vec<u64>,
    table_offset: u64,
    /// Entries of the table that are not written.
    changed: std::collections::BTreeSet<usize>,
    blocks: Cache,
    cluster_bits: u32,
    /// Bits of a refcount, as a power of two.
    order: u32,
    /// No cluster before this one is free.
    hint: u64,
    /// Clusters with metadata that is in use: nothing else may be put there.
    metadata: FxHashSet<u64>,
}

impl Refcounts {
    pub(super) async fn read(file: &Node, header: &Header) -> Result<Refcounts, Error> {
        let cluster = header.cluster_size();
        let bytes = u64::from(header.refcount_table_clusters) * cluster;
        file.event(BlkdebugEvent::ReftableLoad);
        let content = file.read_vec(header.refcount_table, bytes as usize).await?;
        let table: Vec<u64> = content.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes) & OFFSET).collect();
        let mut refcounts = Refcounts {
            table,
            table_offset: header.refcount_table,
            changed: Default::default(),
            blocks: Cache::new(cluster, CACHED, [BlkdebugEvent::RefblockLoad, BlkdebugEvent::RefblockUpdatePart]),
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            hint: 0,
            metadata: FxHashSet::default(),
        };
        for index in 0..refcounts.table.len() {
            let block = refcounts.table[index];
            if !block.is_multiple_of(cluster) {
                let text = format!("refcount block offset {block:#x} is not a multiple of the cluster size");
                return Err(Error::Corrupt(text));
            }
            // Blocks that are all the same would make a search for room endless.
            if block != 0 && !refcounts.metadata.insert(block >> header.cluster_bits) {
                return Err(Error::Corrupt(format!("refcount block offset {block:#x} is there more than once")));
            }
        }
        refcounts.protect(0, 1);
        refcounts.protect(header.refcount_table, bytes);
        Ok(refcounts)
    }

    /// Nothing may be put into these bytes of the file from now on.
    pub(super) fn protect(&mut self, offset: u64, length: u64) {
        let clusters = offset >> self.cluster_bits..offset.saturating_add(length).div_ceil(1 << self.cluster_bits);
        self.metadata.extend(clusters);
    }

    /// Ends [`Refcounts::protect`].
    pub(super) fn unprotect(&mut self, offset: u64, length: u64) {
        for cluster in offset >> self.cluster_bits..(offset + length).div_ceil(1 << self.cluster_bits) {
            self.metadata.remove(&cluster);
        }
    }

    /// Refuses to put something where metadata is.
    pub(super) fn check_place(&self, offset: u64) -> Result<(), Error> {
        if self.metadata.contains(&(offset >> self.cluster_bits)) {
            return Err(Error::Corrupt(format!("data would be written at {offset:#x}, where metadata is")));
        }
        Ok(())
    }

    fn block_entries(&self) -> u64 {
        1 << (self.cluster_bits + 3 - self.order)
    }

    /// The largest refcount.
    pub(super) fn most(&self) -> u64 {
        if self.order == 6 { u64::MAX } else { (1 << (1 << self.order)) - 1 }
    }

    /// The block with a cluster's refcount, if there is one, and the number of the refcount in it.
    fn place(&self, cluster: u64) -> (Option<u64>, u64) {
        let block = self.table.get((cluster / self.block_entries()) as usize).copied();
        (block.filter(|block| *block != 0), cluster % self.block_entries())
    }

    /// How often a cluster is used.
    pub(super) async fn get(&mut self, file: &Node, cluster: u64) -> Result<u64, Error> {
        let (Some(block), index) = self.place(cluster) else { return Ok(0) };
        let bit = index << self.order;
        let bytes = self.blocks.bytes(file, block + bit / 8).await?;
        Ok(number_at(bytes, self.order, (bit % 8) as u32))
    }

    /// Says how often a cluster is used. It has a block.
    async fn set(&mut self, file: &Node, cluster: u64, count: u64) -> Result<(), Error> {
        let (Some(block), index) = self.place(cluster) else {
            return Err(Error::Corrupt(format!("cluster {cluster} has no refcount")));
        };
        let bit = index << self.order;
        let at = block + bit / 8;
        if self.order >= 3 {
            let length = 1 << (self.order - 3);
            return self.blocks.put(file, at, &count.to_be_bytes()[8 - length..]).await;
        }
        let shift = bit % 8;
        let before = self.blocks.bytes(file, at).await?.first().copied().unwrap_or(0);
        let mask = (self.most() as u8) << shift;
        self.blocks.put(file, at, &[before & !mask | (count as u8) << shift]).await
    }

    /// One more user of a cluster; false if its refcount can be no larger.
    pub(super) async fn increment(&mut self, file: &Node, cluster: u64) -> Result<bool, Error> {
        self.ensure_block(file, cluster).await?;
        let count = self.get(file, cluster).await?;
        if count == self.most() {
            return Ok(false);
        }
        self.set(file, cluster, count + 1).await?;
        Ok(true)
    }

    /// One user less of a cluster; returns how many are left.
    pub(super) async fn decrement(&mut self, file: &Node, cluster: u64) -> Result<u64, Error> {
        let count = self.get(file, cluster).await?;
        let Some(left) = count.checked_sub(1) else {
            return Err(Error::Corrupt(format!("the refcount of cluster {cluster} would be below 0")));
        };
        self.set(file, cluster, left).await?;
        if left == 0 {
            self.hint = self.hint.min(cluster);
        }
        Ok(left)
    }

    /// Takes up to `most` free clusters that follow one another, at least one: the first one's number, and how many.
    pub(super) async fn allocate(&mut self, file: &Node, most: u64) -> Result<(u64, u64), Error> {
        file.event(BlkdebugEvent::ClusterAlloc);
        let first = self.find(file, self.hint, 1).await?;
        let mut count = 1;
        while count < most && self.is_free(file, first + count).await? {
            count += 1;
        }
        self.take(file, first, count).await?;
        self.hint = first + count;
        Ok((first << self.cluster_bits, count))
    }

    /// Takes exactly so many clusters that follow one another; returns the first one's offset.
    pub(super) async fn allocate_run(&mut self, file: &Node, count: u64) -> Result<u64, Error> {
        file.event(BlkdebugEvent::ClusterAlloc);
        let first = self.find(file, self.hint, count).await?;
        self.take(file, first, count).await?;
        if first == self.hint {
            self.hint = first + count;
        }
        Ok(first << self.cluster_bits)
    }

    /// Takes this cluster, if it is free.
    pub(super) async fn allocate_at(&mut self, file: &Node, cluster: u64) -> Result<bool, Error> {
        self.ensure_block(file, cluster).await?;
        let is_free = self.is_free(file, cluster).await?;
        if is_free {
            self.take(file, cluster, 1).await?;
        }
        Ok(is_free)
    }

    async fn take(&mut self, file: &Node, first: u64, count: u64) -> Result<(), Error> {
        for cluster in first..first + count {
            if self.metadata.contains(&cluster) {
                return Err(Error::Corrupt(format!("cluster {cluster} has metadata, and its refcount is 0")));
            }
            self.set(file, cluster, 1).await?;
        }
        Ok(())
    }

    async fn is_free(&mut self, file: &Node, cluster: u64) -> Result<bool, Error> {
        Ok(self.place(cluster).0.is_some() && self.get(file, cluster).await? == 0)
    }

    /// The first of `count` free clusters that follow one another, from `from` on. All of them have blocks.
    async fn find(&mut self, file: &Node, from: u64, count: u64) -> Result<u64, Error> {
        let (mut first, mut next) = (from, from);
        while next - first < count {
            self.ensure_block(file, next).await?;
            if self.get(file, next).await? != 0 {
                first = next + 1;
            }
            next += 1;
        }
        Ok(first)
    }

    /// Makes a block for a cluster's refcount, where there is none: it is in the first of the clusters that it is for, which are
    /// all free.
    async fn ensure_block(&mut self, file: &Node, cluster: u64) -> Result<(), Error> {
        let index = (cluster / self.block_entries()) as usize;
        if index >= self.table.len() {
            return self.grow(file, index).await;
        }
        if self.table[index] != 0 {
            return Ok(());
        }
        file.event(BlkdebugEvent::RefblockAlloc);
        let first = index as u64 * self.block_entries();
        self.new_block(index, first)?;
        self.set(file, first, 1).await?;
        self.changed.insert(index);
        Ok(())
    }

    /// An empty block in a cluster, for the part `index` of the file.
    fn new_block(&mut self, index: usize, cluster: u64) -> Result<(), Error> {
        if self.metadata.contains(&cluster) {
            return Err(Error::Corrupt(format!("cluster {cluster} has metadata, and no refcount")));
        }
        let offset = cluster << self.cluster_bits;
        self.blocks.insert(offset, &vec![0; 1 << self.cluster_bits]);
        self.table[index] = offset;
        self.protect(offset, 1);
        Ok(())
    }

    /// Makes the table long enough for block `index`. The new table, and the blocks for its clusters, are in the part of the file that
    /// block is for, where nothing is yet.
    async fn grow(&mut self, file: &Node, index: usize) -> Result<(), Error> {
        file.event(BlkdebugEvent::ReftableGrow);
        let cluster = 1 << self.cluster_bits;
        let entries = (index as u64 + 1 + index as u64 / 2).max(self.table.len() as u64 + 1);
        // Blocks for the table's own clusters, and their own, come on top; a few more than needed do not matter.
        let mut table_clusters = ((entries + 8) * 8).div_ceil(cluster);
        let blocks = loop {
            let blocks = (table_clusters + 1).div_ceil(self.block_entries() - 1);
            if (index as u64 + blocks) * 8 <= table_clusters * cluster {
                break blocks;
            }
            table_clusters += 1;
        };
        if table_clusters * cluster > MOST_TABLE.max(cluster) {
            return Err(Error::host("grow the image", std::io::Error::from_raw_os_error(libc::EFBIG)));
        }
        let before = (self.table_offset, self.table.len() as u64 * 8);
        let first = index as u64 * self.block_entries();
        let length_before = self.table.len();
        self.table.resize((table_clusters * cluster / 8) as usize, 0);
        for block in 0..blocks {
            self.new_block(index + block as usize, first + block)?;
        }
        for used in first..first + blocks + table_clusters {
            self.set(file, used, 1).await?;
        }
        let offset = (first + blocks) << self.cluster_bits;
        let written = self.write_grown(file, offset, table_clusters).await;
        if let Err(error) = written {
            // The image still has the old table, of which nothing was changed.
            for block in 0..blocks {
                let place = (first + block) << self.cluster_bits;
                self.blocks.forget(place, cluster);
                self.unprotect(place, 1);
            }
            self.table.truncate(length_before);
            return Err(error);
        }
        self.table_offset = offset;
        self.changed.clear();
        self.protect(offset, table_clusters * cluster);
        self.unprotect(before.0, before.1);
        for old in before.0 >> self.cluster_bits..(before.0 + before.1) >> self.cluster_bits {
            self.decrement(file, old).await?;
        }
        Ok(())
    }

    /// Writes the whole table at an offset, and then has the header point there.
    async fn write_grown(&mut self, file: &Node, offset: u64, clusters: u64) -> Result<(), Error> {
        file.event(BlkdebugEvent::RefblockAllocWriteBlocks);
        self.blocks.write(file).await?;
        let bytes: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        file.event(BlkdebugEvent::RefblockAllocWriteTable);
        file.write_bytes(offset, &bytes).await?;
        file.flush().await?;
        let mut fields = offset.to_be_bytes().to_vec();
        fields.extend((clusters as u32).to_be_bytes());
        file.event(BlkdebugEvent::RefblockAllocSwitchTable);
        file.write_bytes(TABLE_FIELDS, &fields).await?;
        file.flush().await
    }

    /// Where the blocks are.
    pub(super) fn blocks(&self) -> Vec<u64> {
        self.table.iter().copied().filter(|block| *block != 0).collect()
    }

    /// The clusters whose refcount is not 0.
    pub(super) async fn counted(&mut self, file: &Node) -> Result<Vec<u64>, Error> {
        let mut counted = Vec::new();
        for index in 0..self.table.len() {
            if self.table[index] == 0 {
                continue;
            }
            let first = index as u64 * self.block_entries();
            let bits = (self.block_entries() << self.order) / 8;
            let mut at = 0;
            while at < bits {
                let bytes = self.blocks.bytes(file, self.table[index] + at).await?;
                let length = bytes.len() as u64;
                if bytes.iter().any(|byte| *byte != 0) {
                    let (start, end) = (at * 8, (at + length) * 8);
                    for number in start >> self.order..end >> self.order {
                        let bit = (number << self.order) - start;
                        if number_at(&bytes[(bit / 8) as usize..], self.order, (bit % 8) as u32) != 0 {
                            counted.push(first + number);
                        }
                    }
                }
                at += length;
            }
        }
        Ok(counted)
    }

    /// Says how often a cluster is used, after that was found to be otherwise.
    pub(super) async fn repair(&mut self, file: &Node, cluster: u64, count: u64) -> Result<(), Error> {
        self.ensure_block(file, cluster).await?;
        self.set(file, cluster, count).await?;
        self.hint = 0;
        Ok(())
    }

    /// There are changes that are not written.
    pub(super) fn is_dirty(&self) -> bool {
        self.blocks.is_dirty() || !self.changed.is_empty()
    }

    /// Too many changes are not written.
    pub(super) fn is_full_of_changes(&self) -> bool {
        self.blocks.is_full_of_changes()
    }

    /// Writes what was changed. Whoever relies on it flushes the file.
    pub(super) async fn write(&mut self, file: &Node) -> Result<(), Error> {
        self.blocks.write(file).await?;
        if self.changed.is_empty() {
            return Ok(());
        }
        // The table must not point to blocks that are not there.
        file.flush().await?;
        for index in self.changed.clone() {
            file.event(BlkdebugEvent::RefblockAllocHookup);
            file.write_bytes(self.table_offset + index as u64 * 8, &self.table[index].to_be_bytes()).await?;
            self.changed.remove(&index);
        }
        Ok(())
    }
}

/// The number of `1 << order` bits, from bit `shift` of the first byte on where it is less than a byte.
fn number_at(bytes: &[u8], order: u32, shift: u32) -> u64 {
    if order < 3 {
        let mask = (1_u16 << (1 << order)) - 1;
        return u64::from(u16::from(bytes.first().copied().unwrap_or(0)) >> shift & mask);
    }
    bytes.iter().take(1 << (order - 3)).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
