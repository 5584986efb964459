//! Changing the length of the disk, and making room before it is used.

use super::entries::Cluster;
use super::image::{Qcow2, State};
use super::write::clusters;
use crate::Error;
use crate::driver::{Driver, Preallocation, ZeroFlags};
use crate::filters::BlkdebugEvent;

/// Where the header has the disk's length, followed by encryption, and the L1 table's length and offset.
const SIZE_FIELDS: u64 = 24;
/// Most entries of the L1 table.
const MOST_L1: u64 = (32 << 20) / 8;

impl Qcow2 {
    /// Makes the disk so long. What is new reads as zeros.
    pub(super) async fn resize(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        let before = self.length();
        if !length.is_multiple_of(512) {
            return Err(Error::Unsupported("The new size must be a multiple of 512".into()));
        }
        if preallocation != Preallocation::Off && length < before {
            return Err(Error::Unsupported("Preallocation can't be used for shrinking files".into()));
        }
        let cluster = self.layout.cluster();
        if length < before {
            if !self.state.lock().await.metadata.snapshots.is_empty() {
                return Err(Error::Unsupported("Can't shrink an image which has snapshots".into()));
            }
            let kept = length.next_multiple_of(cluster);
            {
                let _turn = self.requests.exclusive(kept..u64::MAX).await;
                let mut state = self.state.lock().await;
                state.check_writable()?;
                for (at, _) in clusters(kept, before.saturating_sub(kept), cluster) {
                    state.set_cluster(at, Cluster::NONE).await?;
                    self.keep_changes_few(&mut state).await?;
                }
            }
            self.flush_all().await?;
            return self.state.lock().await.set_size(length).await;
        }
        // What was behind the end in its cluster, from when the disk was longer.
        let tail = before.next_multiple_of(cluster).min(length);
        {
            let mut state = self.state.lock().await;
            state.check_writable()?;
            state.grow_l1(length).await?;
        }
        if before < tail {
            self.write_zero_bytes(before, tail - before).await?;
        }
        let is_covered = self.backing.node().is_some_and(|backing| backing.length() > before);
        if is_covered && length > tail {
            // What the backing file has there must not come forth. Nothing is lost in the cluster at the new end.
            let zeroed = self.make_zero(tail, length.next_multiple_of(cluster) - tail, ZeroFlags::MAY_UNMAP).await?;
            if zeroed == crate::Zeroed::NotBuilt {
                return Err(Error::Unsupported(
                    "the backing file is longer than the image, and version 2 has no zero clusters to hide that".into(),
                ));
            }
        }
        if preallocation != Preallocation::Off {
            self.preallocate(tail, length - tail, preallocation).await?;
        }
        self.flush_all().await?;
        self.state.lock().await.set_size(length).await
    }

    /// Gives each cluster of a part of the disk a place, which reads as zeros.
    pub(super) async fn preallocate(&self, offset: u64, length: u64, mode: Preallocation) -> Result<(), Error> {
        let cluster = self.layout.cluster();
        let end = offset + length;
        let _turn = self.requests.exclusive(offset..end.next_multiple_of(cluster)).await;
        let mut state = self.state.lock().await;
        let file = state.file.clone();
        let mut at = offset;
        while at < end {
            let wanted = (end - at).div_ceil(cluster);
            let (host, count) = match &self.data_file {
                Some(_) => (at, wanted),
                None => state.refcounts.allocate(&file, wanted).await?,
            };
            let (host_end, data) = (host + count * cluster, self.data());
            // Room that was used before has to be made zero, room behind the end of the file is.
            let used = data.length().clamp(host, host_end) - host;
            data.write_zeroes(host, used, ZeroFlags::empty()).await?;
            if host_end > data.length() {
                let mode = if mode == Preallocation::Metadata { Preallocation::Off } else { mode };
                data.truncate(host_end, mode).await?;
            }
            for index in 0..count {
                let place = Some((host + index * cluster, true));
                let new = Cluster::Plain { host: place, data: self.layout.all_parts(), zero: 0 };
                state.set_cluster(at + index * cluster, new).await?;
                self.keep_changes_few(&mut state).await?;
            }
            at += count * cluster;
        }
        Ok(())
    }
}

impl State {
    /// Makes the L1 table long enough for a disk of that length.
    async fn grow_l1(&mut self, length: u64) -> Result<(), Error> {
        let needed = length.div_ceil(self.layout.l2_reach());
        if needed <= self.l1.len() as u64 {
            return Ok(());
        }
        if needed > MOST_L1 {
            return Err(Error::host("grow the image", std::io::Error::from_raw_os_error(libc::EFBIG)));
        }
        // The old table is left behind as it is in the file.
        self.write_metadata().await?;
        let (file, cluster) = (self.file.clone(), self.layout.cluster());
        let bytes = needed * 8;
        file.event(BlkdebugEvent::L1GrowAllocTable);
        let table = self.refcounts.allocate_run(&file, bytes.div_ceil(cluster)).await?;
        let mut content: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        content.resize(bytes.next_multiple_of(cluster) as usize, 0);
        file.event(BlkdebugEvent::L1GrowWriteTable);
        file.write_bytes(table, &content).await?;
        self.refcounts.write(&file).await?;
        file.flush().await?;
        file.event(BlkdebugEvent::L1GrowActivateTable);
        let header = &self.metadata.header;
        let before = (header.l1_table, u64::from(header.l1_entries) * 8);
        self.write_size_fields(header.size, (table, needed as u32)).await?;
        self.l1.resize(needed as usize, 0);
        self.refcounts.protect(table, bytes);
        self.unused.extend((before.0..before.0 + before.1).step_by(cluster as usize));
        Ok(())
    }

    /// Writes the disk's length into the header.
    async fn set_size(&mut self, length: u64) -> Result<(), Error> {
        let header = &self.metadata.header;
        self.write_size_fields(length, (header.l1_table, header.l1_entries)).await
    }

    /// Has the header say another length of the disk, and another place and length of the L1 table.
    ///
    /// Where that fails, the host may have the new header nevertheless, or the old one, and what went to the other table would be lost.
    /// So the old one is put back; where that fails, too, nothing of the image is changed any more.
    pub(super) async fn write_size_fields(&mut self, size: u64, l1: (u64, u32)) -> Result<(), Error> {
        let header = &self.metadata.header;
        let fields = |size: u64, (table, entries): (u64, u32)| {
            let mut fields = size.to_be_bytes().to_vec();
            fields.extend((header.encryption as u32).to_be_bytes());
            fields.extend(entries.to_be_bytes());
            fields.extend(table.to_be_bytes());
            fields
        };
        let (old, new) = (fields(header.size, (header.l1_table, header.l1_entries)), fields(size, l1));
        let file = self.file.clone();
        let write = async |fields: &[u8]| {
            file.write_bytes(SIZE_FIELDS, fields).await?;
            file.flush().await
        };
        if let Err(error) = write(&new).await {
            if write(&old).await.is_err() {
                tracing::error!(
                    "qcow2: nothing is written any more, as it is not known which header the image has: {error}"
                );
                self.is_read_only = true;
            }
            return Err(error);
        }
        let header = &mut self.metadata.header;
        (header.size, (header.l1_table, header.l1_entries)) = (size, l1);
        Ok(())
    }
}
