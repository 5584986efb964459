//! Internal snapshots: states of the disk that are kept in the image.
//!
//! A snapshot has a copy of the L1 table as it was; all that the copy leads to is used once more. While references are counted anew,
//! refcounts and the tables' bits do not agree, so the image is marked as one that was not closed: after a crash it is repaired when it
//! is opened. (Version 2 has no such mark. There a crash at that time leaves an image that must be repaired by hand; no data is lost.)

use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::header::Incompatible;
use super::image::{Qcow2, State};
use super::snapshots::{Snapshot, encode_table};
use crate::Error;
use crate::driver::{InternalSnapshots, SnapshotInfo};

/// Where the header has the number of snapshots, and where their table is.
const SNAPSHOT_FIELDS: u64 = 60;
/// Most internal snapshots.
const MOST: usize = 65536;

#[async_trait]
impl InternalSnapshots for Qcow2 {
    async fn list(&self) -> Vec<SnapshotInfo> {
        self.state.lock().await.metadata.snapshots.iter().map(Snapshot::info).collect()
    }

    async fn create(&self, info: &SnapshotInfo) -> Result<String, Error> {
        let _turn = self.requests.exclusive(0..u64::MAX).await;
        self.flush_all().await?;
        self.flush_all().await?;
        let mut state = self.state.lock().await;
        state.check_writable()?;
        if state.metadata.snapshots.len() >= MOST {
            return Err(Error::Unsupported(format!("an image has at most {MOST} internal snapshots")));
        }
        if state.data_file.is_some() {
            return Err(Error::Unsupported("an image with a data file has no internal snapshots".into()));
        }
        let done = state.create_snapshot(info).await;
        state.settle(done).await
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        let _turn = self.requests.exclusive(0..u64::MAX).await;
        self.flush_all().await?;
        let mut state = self.state.lock().await;
        state.check_writable()?;
        let index = state.find_snapshot(name)?;
        let done = state.delete_snapshot(index).await;
        state.settle(done).await
    }

    async fn apply(&self, name: &str) -> Result<(), Error> {
        let _turn = self.requests.exclusive(0..u64::MAX).await;
        self.flush_all().await?;
        self.flush_all().await?;
        let mut state = self.state.lock().await;
        state.check_writable()?;
        let index = state.find_snapshot(name)?;
        let done = state.apply_snapshot(index).await;
        let done = state.settle(done).await;
        self.length.store(state.metadata.header.size, Ordering::Release);
        done
    }
}

impl State {
    fn find_snapshot(&self, name: &str) -> Result<usize, Error> {
        let snapshots = &self.metadata.snapshots;
        let by_id = snapshots.iter().position(|snapshot| snapshot.id == name);
        let found = by_id.or_else(|| snapshots.iter().position(|snapshot| snapshot.name == name));
        found.ok_or_else(|| Error::Unsupported(format!("snapshot '{name}' does not exist")))
    }

    /// Refcounts and tables agree again; the image is not used any more if they do not.
    async fn settle<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        match done {
            Ok(value) => Ok(value),
            Err(error) => Err(self.mark_corrupt(error).await),
        }
    }

    /// From here on refcounts may be wrong.
    async fn begin_counting(&mut self) -> Result<(), Error> {
        self.set_incompatible(self.metadata.header.incompatible_features | Incompatible::DIRTY).await
    }

    /// All is as it should be.
    async fn end_counting(&mut self) -> Result<(), Error> {
        self.check_copied(&mut |_| true).await?;
        self.write_metadata().await?;
        self.file.flush().await?;
        self.clear_incompatible(Incompatible::DIRTY).await
    }

    async fn create_snapshot(&mut self, info: &SnapshotInfo) -> Result<String, Error> {
        let file = self.file.clone();
        let l1 = self.l1.clone();
        self.begin_counting().await?;
        if let Err(error) = self.change_references(&l1, true).await {
            self.end_counting().await?;
            return Err(error);
        }
        // The copy's entries say of no table that it is theirs alone.
        self.check_copied(&mut |_| true).await?;
        self.write_metadata().await?;
        let table = self.write_l1_copy(&self.l1.clone()).await?;
        self.refcounts.write(&file).await?;
        file.flush().await?;
        let numbers = self.metadata.snapshots.iter().filter_map(|snapshot| snapshot.id.parse::<u64>().ok());
        let id = (numbers.max().unwrap_or(0) + 1).to_string();
        let size = self.metadata.header.size;
        let new = Snapshot::new(&id, info, size, (table, self.l1.len() as u32));
        let mut snapshots = self.metadata.snapshots.clone();
        snapshots.push(new);
        self.replace_snapshots(snapshots).await?;
        self.end_counting().await?;
        Ok(id)
    }

    async fn delete_snapshot(&mut self, index: usize) -> Result<(), Error> {
        let snapshot = self.metadata.snapshots[index].clone();
        let l1 = self.read_l1(&snapshot).await?;
        self.begin_counting().await?;
        let mut snapshots = self.metadata.snapshots.clone();
        snapshots.remove(index);
        self.replace_snapshots(snapshots).await?;
        // Nothing on stable storage leads there any more.
        let mut unused = self.change_references(&l1, false).await?;
        unused.extend(self.clusters_in(snapshot.l1_table, u64::from(snapshot.l1_entries) * 8));
        self.free(unused).await?;
        self.end_counting().await
    }

    async fn apply_snapshot(&mut self, index: usize) -> Result<(), Error> {
        let snapshot = self.metadata.snapshots[index].clone();
        let mut l1 = self.read_l1(&snapshot).await?;
        let size = snapshot.disk_size.unwrap_or(self.metadata.header.size);
        let needed = size.div_ceil(self.layout.l2_reach()) as usize;
        if needed > l1.len() {
            return Err(Error::Corrupt(format!(
                "the L1 table of snapshot '{}' is shorter than its disk",
                snapshot.name
            )));
        }
        self.begin_counting().await?;
        if let Err(error) = self.change_references(&l1, true).await {
            self.end_counting().await?;
            return Err(error);
        }
        let file = self.file.clone();
        self.refcounts.write(&file).await?;
        let table = self.write_l1_copy(&l1).await?;
        self.refcounts.write(&file).await?;
        file.flush().await?;
        let header = &self.metadata.header;
        let before = (header.l1_table, u64::from(header.l1_entries) * 8);
        self.write_size_fields(size, (table, l1.len() as u32)).await?;
        std::mem::swap(&mut self.l1, &mut l1);
        self.l1_changed.clear();
        let mut unused = self.change_references(&l1, false).await?;
        unused.extend(self.clusters_in(before.0, before.1));
        self.free(unused).await?;
        for entry in self.l1.clone() {
            if let Some((table, _)) = super::entries::l2_table(entry, self.layout)? {
                self.refcounts.protect(table, 1);
            }
        }
        self.end_counting().await
    }

    fn clusters_in(&self, offset: u64, length: u64) -> impl Iterator<Item = u64> + use<> {
        (offset..offset + length).step_by(self.layout.cluster() as usize)
    }

    async fn read_l1(&self, snapshot: &Snapshot) -> Result<Vec<u64>, Error> {
        let bytes = u64::from(snapshot.l1_entries) * 8;
        if bytes > 32 << 20 || !snapshot.l1_table.is_multiple_of(self.layout.cluster()) {
            return Err(Error::Corrupt(format!("the L1 table of snapshot '{}' cannot be", snapshot.name)));
        }
        let content = self.file.read_vec(snapshot.l1_table, bytes as usize).await?;
        Ok(content.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect())
    }

    /// Writes an L1 table to a new place, which is protected from now on.
    async fn write_l1_copy(&mut self, l1: &[u64]) -> Result<u64, Error> {
        let (file, cluster) = (self.file.clone(), self.layout.cluster());
        let bytes = (l1.len() as u64 * 8).max(8);
        let table = self.refcounts.allocate_run(&file, bytes.div_ceil(cluster)).await?;
        let mut content: Vec<u8> = l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        content.resize(bytes.next_multiple_of(cluster) as usize, 0);
        file.write_bytes(table, &content).await?;
        self.refcounts.protect(table, bytes);
        Ok(table)
    }

    /// Writes another table of snapshots, and has the header point to it.
    async fn replace_snapshots(&mut self, snapshots: Vec<Snapshot>) -> Result<(), Error> {
        let file = self.file.clone();
        let bytes = encode_table(&snapshots);
        let mut offset = 0;
        if !bytes.is_empty() {
            let clusters = (bytes.len() as u64).div_ceil(self.layout.cluster());
            offset = self.refcounts.allocate_run(&file, clusters).await?;
            file.write_bytes(offset, &bytes).await?;
        }
        self.refcounts.write(&file).await?;
        file.flush().await?;
        let mut fields = (snapshots.len() as u32).to_be_bytes().to_vec();
        fields.extend(offset.to_be_bytes());
        file.write_bytes(SNAPSHOT_FIELDS, &fields).await?;
        file.flush().await?;
        let before = (self.metadata.header.snapshot_table, self.metadata.snapshot_table_bytes());
        self.metadata.header.snapshots = snapshots.len() as u32;
        self.metadata.header.snapshot_table = offset;
        self.metadata.snapshots = snapshots;
        let unused = self.clusters_in(before.0, before.1).collect();
        self.free(unused).await.map(|_| ())
    }
}
