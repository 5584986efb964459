//! In which order metadata is written.
//!
//! A crash may keep any of the writes since the last flush of the file and lose any other. So that each state that can come of it is a
//! usable image without loss of what was flushed:
//!
//! 1. Refcounts go to stable storage, with the data, before tables that use the clusters.
//! 2. New tables go there before what points to them.
//! 3. What is no longer used stays as it is until the tables that do not use it any more are there.
//!
//! At worst clusters are counted as used that are not.

use super::image::{Qcow2, State};
use crate::Error;
use crate::filters::BlkdebugEvent;

impl State {
    /// Writes all changed metadata, each part after what it relies on is on stable storage. The last part is written, not flushed.
    pub(super) async fn write_metadata(&mut self) -> Result<(), Error> {
        let (file, data_file) = (self.file.clone(), self.data_file.clone());
        self.refcounts.write(&file).await?;
        if !self.l2.is_dirty() && self.l1_changed.is_empty() {
            return Ok(());
        }
        file.flush().await?;
        if let Some(data_file) = data_file {
            data_file.flush().await?;
        }
        self.l2.write(&file).await?;
        if self.l1_changed.is_empty() {
            return Ok(());
        }
        file.flush().await?;
        for index in self.l1_changed.clone() {
            let at = self.metadata.header.l1_table + index as u64 * 8;
            file.event(BlkdebugEvent::L1Update);
            file.write_bytes(at, &self.l1[index].to_be_bytes()).await?;
            self.l1_changed.remove(&index);
        }
        Ok(())
    }

    fn has_changes(&self) -> bool {
        self.refcounts.is_dirty() || self.l2.is_dirty() || !self.l1_changed.is_empty()
    }

    /// Counts clusters that are not used any more as free; returns those that are.
    pub(super) async fn free(&mut self, unused: Vec<u64>) -> Result<Vec<u64>, Error> {
        let file = self.file.clone();
        let mut free = Vec::new();
        if !unused.is_empty() {
            file.event(BlkdebugEvent::ClusterFree);
        }
        for offset in unused {
            if self.refcounts.decrement(&file, offset >> self.layout.cluster_bits).await? == 0 {
                // Another cluster may go there now.
                if self.compressed_end.is_some_and(|end| end.saturating_sub(1) & !(self.layout.cluster() - 1) == offset)
                {
                    self.compressed_end = None;
                }
                self.refcounts.unprotect(offset, 1);
                free.push(offset);
            }
        }
        Ok(free)
    }
}

impl Qcow2 {
    /// Returns once everything that was written before is on stable storage, and can be found there.
    pub(super) async fn flush_all(&self) -> Result<(), Error> {
        self.file.event(BlkdebugEvent::FlushToOs);
        let unused = {
            let mut state = self.state.lock().await;
            if state.has_changes() {
                state.write_metadata().await?;
            }
            std::mem::take(&mut state.unused)
        };
        let flushed = async {
            self.file.event(BlkdebugEvent::FlushToDisk);
            self.file.flush().await?;
            match &self.data_file {
                Some(data_file) => data_file.flush().await,
                None => Ok(()),
            }
        };
        if let Err(error) = flushed.await {
            self.state.lock().await.unused.extend(unused);
            return Err(error);
        }
        if unused.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock().await;
        match state.free(unused).await {
            Ok(free) => {
                // While nobody can take them: the lock is held.
                self.give_back(&free).await;
                Ok(())
            }
            Err(error) => Err(state.mark_corrupt(error).await),
        }
    }

    /// Writes metadata where there is too much of it in memory.
    pub(super) async fn keep_changes_few(&self, state: &mut State) -> Result<(), Error> {
        if state.l2.is_full_of_changes() || state.refcounts.is_full_of_changes() {
            state.write_metadata().await?;
        }
        Ok(())
    }
}
