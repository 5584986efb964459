//! Whether clusters belong to one entry alone: references to whole tables, and the bits that say so.

use rustc_hash::FxHashSet;

use super::entries::{Cluster, Layout, l1_entry, l2_table};
use super::image::State;
use crate::Error;

impl State {
    /// Adds a reference to each cluster that an L1 table leads to, or takes one away; returns clusters that are not used any more.
    ///
    /// Nothing is changed if some refcount could be no larger.
    pub(super) async fn change_references(&mut self, l1: &[u64], is_added: bool) -> Result<Vec<u64>, Error> {
        let mut seen = FxHashSet::default();
        for entry in l1 {
            if let Some((table, _)) = l2_table(*entry, self.layout)?
                && !seen.insert(table)
            {
                return Err(Error::Corrupt(format!("an L1 table leads to the L2 table at {table:#x} more than once")));
            }
        }
        if is_added {
            for table in l1 {
                for cluster in self.clusters_of(*table).await? {
                    let file = self.file.clone();
                    if self.refcounts.get(&file, cluster).await? >= self.refcounts.most() {
                        let most = self.refcounts.most();
                        return Err(Error::Unsupported(format!(
                            "a cluster would be used more than {most} times, which is the most that refcounts of this image say"
                        )));
                    }
                }
            }
        }
        let mut unused = Vec::new();
        for table in l1 {
            let clusters = self.clusters_of(*table).await?;
            if !is_added {
                unused.extend(clusters.into_iter().map(|cluster| cluster << self.layout.cluster_bits));
                continue;
            }
            let file = self.file.clone();
            for cluster in clusters {
                if !self.refcounts.increment(&file, cluster).await? {
                    return Err(Error::Corrupt(format!("cluster {cluster} is used too often")));
                }
            }
        }
        Ok(unused)
    }

    /// The numbers of the clusters that an L1 entry leads to, the L2 table's included; one that is used twice is there twice.
    async fn clusters_of(&mut self, entry: u64) -> Result<Vec<u64>, Error> {
        let layout = self.layout;
        let Some((table, _)) = l2_table(entry, layout)? else { return Ok(Vec::new()) };
        let mut clusters = vec![table >> layout.cluster_bits];
        for index in 0..layout.l2_entries() {
            let cluster = self.entry_at(table, index).await?;
            if let Some((host, count)) = cluster.host_clusters(layout).filter(|_| self.data_file.is_none()) {
                let first = host >> layout.cluster_bits;
                clusters.extend(first..first + count);
            }
        }
        Ok(clusters)
    }

    /// An entry of an L2 table.
    async fn entry_at(&mut self, table: u64, index: u64) -> Result<Cluster, Error> {
        let layout = self.layout;
        let at = table + index * layout.entry();
        let file = self.file.clone();
        let entry = self.l2.u64(&file, at).await?;
        let bitmap = if layout.entry() == 16 { self.l2.u64(&file, at + 8).await? } else { 0 };
        Cluster::decode(entry, bitmap, layout)
    }

    /// Looks for entries of the active tables that say wrongly whether a cluster is theirs alone. `wrong` is told of each, and says
    /// whether to make it right. Entries that make no sense are passed over.
    pub(super) async fn check_copied(&mut self, wrong: &mut (dyn FnMut(&str) -> bool + Send)) -> Result<(), Error> {
        let (layout, file) = (self.layout, self.file.clone());
        let mut seen = FxHashSet::default();
        for index in 0..self.l1.len() {
            let entry = self.l1[index];
            let Ok(Some((table, is_own))) = l2_table(entry, layout) else { continue };
            let count = self.refcounts.get(&file, table >> layout.cluster_bits).await?;
            let text = || format!("OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}");
            if is_own != (count == 1) && wrong(&text()) {
                self.l1[index] = l1_entry(table, count == 1);
                self.l1_changed.insert(index);
            }
            if table >= file.length() || self.data_file.is_some() || !seen.insert(table) {
                continue;
            }
            for number in 0..layout.l2_entries() {
                let Ok(cluster) = self.entry_at(table, number).await else { continue };
                let Cluster::Plain { host: Some((host, is_own)), data, zero } = cluster else { continue };
                let count = self.refcounts.get(&file, host >> layout.cluster_bits).await?;
                let (entry, _) = cluster.encode(layout);
                let text = || format!("OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={count}");
                if is_own != (count == 1) && wrong(&text()) {
                    let new = Cluster::Plain { host: Some((host, count == 1)), data, zero };
                    self.put_first_half(table, number, new, layout).await?;
                }
            }
        }
        Ok(())
    }

    async fn put_first_half(&mut self, table: u64, index: u64, new: Cluster, layout: Layout) -> Result<(), Error> {
        let (entry, _) = new.encode(layout);
        let file = self.file.clone();
        self.l2.put(&file, table + index * layout.entry(), &entry.to_be_bytes()).await
    }
}
