//! Making parts of the disk zero, and giving them up.

use super::entries::Cluster;
use super::image::{Qcow2, State};
use super::write::clusters;
use crate::driver::{Driver, ZeroFlags, Zeroed};
use crate::filters::BlkdebugEvent;
use crate::{Error, IoVector};

impl State {
    /// What the tables say of a cluster of which `touched` parts become zero; `None` if data must be written for that.
    fn zeroed(&self, old: Cluster, touched: u32, has_backing: bool, flags: ZeroFlags) -> Option<Cluster> {
        let layout = self.layout;
        let is_whole = touched == layout.all_parts();
        let nowhere = |zero| Cluster::Plain { host: None, data: 0, zero };
        match old {
            // There is nothing in front of zeros, nor behind.
            Cluster::Plain { host: None, zero, .. } if !has_backing && zero == 0 => Some(old),
            _ if layout.version < 3 => (is_whole && !has_backing).then_some(Cluster::NONE),
            Cluster::Plain { host: Some((_, false)), .. } | Cluster::Compressed { .. } if is_whole => {
                Some(nowhere(touched))
            }
            Cluster::Plain { host: Some(_), .. } if is_whole && flags.contains(ZeroFlags::MAY_UNMAP) => {
                Some(nowhere(touched))
            }
            Cluster::Plain { host, data, zero } => {
                Some(Cluster::Plain { host, data: data & !touched, zero: zero | touched })
            }
            Cluster::Compressed { .. } => None,
        }
    }

    /// What the tables say of a cluster that is given up.
    fn discarded(&self, old: Cluster, has_backing: bool) -> Cluster {
        match old {
            Cluster::Plain { host: None, .. } => old,
            // What is behind it must not come forth again.
            _ if self.layout.version >= 3 => Cluster::Plain { host: None, data: 0, zero: self.layout.all_parts() },
            _ if has_backing => old,
            _ => Cluster::NONE,
        }
    }
}

impl Qcow2 {
    /// Makes a part of the disk zero, by what the tables say of it as far as possible.
    pub(super) async fn make_zero(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        let (layout, has_backing) = (self.layout, self.backing.is_some());
        if self.data_file.is_some() || layout.version < 3 && has_backing {
            return Ok(Zeroed::NotBuilt);
        }
        // Without zero clusters only whole ones can be zero: by not being there.
        let unit = if layout.version < 3 { layout.cluster() } else { layout.part() };
        let end = offset + length;
        let (first, last) = (offset.next_multiple_of(unit), end / unit * unit);
        // Behind the end of the disk there is nothing that could be lost.
        let last = if end == self.length() { end.next_multiple_of(unit) } else { last };
        if first >= last {
            return Ok(Zeroed::NotBuilt);
        }
        for (at, end) in [(offset, first), (last, end)] {
            if at < end {
                self.write_zero_bytes(at, end - at).await?;
            }
        }
        let mut must_write = Vec::new();
        {
            let whole = first / layout.cluster() * layout.cluster()..last.next_multiple_of(layout.cluster());
            let _turn = self.requests.exclusive(whole).await;
            let mut state = self.state.lock().await;
            state.check_writable()?;
            for (at, part) in clusters(first, last - first, layout.cluster()) {
                let changed = async {
                    let old = state.cluster_at(at).await?;
                    let Some(new) = state.zeroed(old, layout.parts_at(at, part), has_backing, flags) else {
                        return Ok(false);
                    };
                    state.set_cluster(at, new).await?;
                    Ok(true)
                };
                match changed.await {
                    Ok(true) => {}
                    Ok(false) => must_write.push((at, part.min(end - at))),
                    Err(error) => return Err(state.mark_corrupt(error).await),
                }
                self.keep_changes_few(&mut state).await?;
            }
        }
        for (at, part) in must_write {
            self.write_zero_bytes(at, part).await?;
        }
        Ok(Zeroed::Done)
    }

    /// Writes zeros, unless they are there; less than a cluster.
    pub(super) async fn write_zero_bytes(&self, offset: u64, length: u64) -> Result<(), Error> {
        let status = self.status_of(offset, length).await?;
        let is_zero = status.kind.is_zero() && status.length >= length;
        if is_zero { Ok(()) } else { self.write_disk(offset, IoVector::zeroed(length as usize)).await }
    }

    /// Gives whole clusters up.
    pub(super) async fn discard_disk(&self, offset: u64, length: u64) -> Result<(), Error> {
        let (cluster, has_backing) = (self.layout.cluster(), self.backing.is_some());
        let end = offset + length;
        let first = offset.next_multiple_of(cluster);
        let last = if end == self.length() { end.next_multiple_of(cluster) } else { end / cluster * cluster };
        if self.data_file.is_some() || first >= last {
            return Ok(());
        }
        let _turn = self.requests.exclusive(first..last).await;
        let mut state = self.state.lock().await;
        state.check_writable()?;
        for (at, _) in clusters(first, last - first, cluster) {
            let changed = async {
                let old = state.cluster_at(at).await?;
                let new = state.discarded(old, has_backing);
                state.set_cluster(at, new).await
            };
            if let Err(error) = changed.await {
                return Err(state.mark_corrupt(error).await);
            }
            self.keep_changes_few(&mut state).await?;
        }
        Ok(())
    }

    /// Gives up all clusters, so that those of the backing file come forth.
    pub(super) async fn forget_all(&self) -> Result<(), Error> {
        if self.data_file.is_some() {
            return Err(Error::Unsupported("an image with a data file cannot be emptied".into()));
        }
        self.file.event(BlkdebugEvent::EmptyImagePrepare);
        let (cluster, length) = (self.layout.cluster(), self.length());
        let mut at = 0;
        while at < length {
            let status = self.status_of(at, length - at).await?;
            let next = at + status.length;
            if status.is_here {
                let (start, end) = (at / cluster * cluster, next.next_multiple_of(cluster));
                let _turn = self.requests.exclusive(start..end).await;
                let mut state = self.state.lock().await;
                state.check_writable()?;
                for (at, _) in clusters(start, end - start, cluster) {
                    if let Err(error) = state.set_cluster(at, Cluster::NONE).await {
                        return Err(state.mark_corrupt(error).await);
                    }
                    self.keep_changes_few(&mut state).await?;
                }
                at = end;
            } else {
                at = next;
            }
        }
        Ok(())
    }
}
