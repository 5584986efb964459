//! Reading the disk.

use super::entries::Cluster;
use super::image::{Qcow2, State};
use crate::driver::{Status, StatusKind};
use crate::filters::BlkdebugEvent;
use crate::together::all_of;
use crate::{Error, IoVector};

/// Most stretches of a request that are read at once.
const AT_ONCE: usize = 64;
/// Most stretches of a request that are looked for at once.
const MOST_FOUND: usize = 4096;

/// Where a stretch of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the file with data, from this offset on.
    Data(u64),
    /// Nowhere: zeros; `true` if room is taken for them.
    Zero(bool),
    /// In the backing file, at the same offset, or nowhere if there is none.
    Backing,
    /// In the file in compressed form: offset, and how many bytes at most.
    Compressed(u64, u64),
}

/// A stretch of the disk, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) place: Place,
}

impl Extent {
    /// Puts `next`, which follows on the disk, to this one, if it follows in its place, too.
    fn join(&mut self, next: &Extent) -> bool {
        let follows = match (self.place, next.place) {
            (Place::Data(here), Place::Data(there)) => here + self.length == there,
            (Place::Compressed(..), _) => false,
            (here, there) => here == there,
        };
        if follows {
            self.length += next.length;
        }
        follows
    }
}

impl State {
    /// Where the disk is from an offset on. Stops behind `most` bytes, and where `stop` says so of what was found.
    pub(super) async fn extents(
        &mut self,
        offset: u64,
        most: u64,
        stop: impl Fn(&[Extent]) -> bool + Send,
    ) -> Result<Vec<Extent>, Error> {
        let layout = self.layout;
        let mut found: Vec<Extent> = Vec::new();
        let (mut at, end) = (offset, offset + most);
        while at < end {
            let cluster = self.cluster_at(at).await?;
            let cluster_end = (at / layout.cluster() + 1) * layout.cluster();
            while at < end.min(cluster_end) {
                let (place, place_end) = match cluster {
                    Cluster::Compressed { host, length } => (Place::Compressed(host, length), cluster_end),
                    Cluster::Plain { host, data, zero } => {
                        let bit = layout.parts_at(at, 1);
                        let place = match host {
                            Some((host, _)) if data & bit != 0 => Place::Data(host + at % layout.cluster()),
                            _ if zero & bit != 0 => Place::Zero(host.is_some()),
                            _ => Place::Backing,
                        };
                        (place, (at / layout.part() + 1) * layout.part())
                    }
                };
                let length = place_end.min(end) - at;
                let extent = Extent { offset: at, length, place };
                at += length;
                if !found.last_mut().is_some_and(|last| last.join(&extent)) {
                    found.push(extent);
                    if stop(&found) {
                        return Ok(found);
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Qcow2 {
    /// Fills `to` with the disk's bytes from `offset` on, and zeros behind its end.
    pub(super) async fn read_disk(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        use crate::Driver;
        let inside = self.length().saturating_sub(offset).min(to.len() as u64) as usize;
        to.slice(inside, to.len() - inside).fill(0);
        if inside == 0 {
            return Ok(());
        }
        let _turn = self.requests.shared(offset..offset + inside as u64).await;
        self.read_places(offset, to.slice(0, inside)).await
    }

    /// As [`Qcow2::read_disk`], for who has the clusters for itself, and within the disk or the cluster at its end.
    pub(super) async fn read_places(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let mut done = 0;
        while done < to.len() {
            let (at, rest) = (offset + done as u64, to.slice(done, to.len() - done));
            let extents = {
                let mut state = self.state.lock().await;
                match state.extents(at, rest.len() as u64, |found| found.len() >= MOST_FOUND).await {
                    Ok(extents) => extents,
                    Err(error) => return Err(state.mark_corrupt(error).await),
                }
            };
            if let [extent] = &extents[..] {
                self.read_extent(*extent, rest.slice(0, extent.length as usize)).await?;
            } else {
                let part = |extent: &Extent| rest.slice((extent.offset - at) as usize, extent.length as usize);
                for some in extents.chunks(AT_ONCE) {
                    all_of(some.iter().map(|extent| self.read_extent(*extent, part(extent)))).await?;
                }
            }
            done += extents.iter().map(|extent| extent.length as usize).sum::<usize>();
        }
        Ok(())
    }

    async fn read_extent(&self, extent: Extent, to: IoVector) -> Result<(), Error> {
        match (extent.place, self.backing.node()) {
            (Place::Data(host), _) => {
                self.data().event(BlkdebugEvent::ReadAio);
                self.data().read(host, to).await
            }
            (Place::Zero(_), _) | (Place::Backing, None) => {
                to.fill(0);
                Ok(())
            }
            (Place::Backing, Some(backing)) => {
                self.file.event(BlkdebugEvent::ReadBackingAio);
                backing.read(extent.offset, to).await
            }
            (Place::Compressed(host, length), _) => {
                let cluster = self.read_compressed(host, length).await?;
                let at = (extent.offset % self.layout.cluster()) as usize;
                to.copy_from(&cluster[at..at + to.len()]);
                Ok(())
            }
        }
    }

    /// What is known of the disk from an offset on.
    pub(super) async fn status_of(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let mut state = self.state.lock().await;
        // The last one found may go on where the search stopped, and is left out.
        let extents = match state.extents(offset, length, |found| found.len() > 1).await {
            Ok(extents) => extents,
            Err(error) => return Err(state.mark_corrupt(error).await),
        };
        let Some(first) = extents.first() else {
            return Err(Error::Unsupported("nothing was asked for".into()));
        };
        let status =
            |kind, is_here| Status { length: first.length, kind, is_here, file_offset: None, is_compressed: false };
        Ok(match first.place {
            Place::Data(host) => Status { file_offset: Some(host), ..status(StatusKind::Data, true) },
            Place::Zero(false) => status(StatusKind::Zero, true),
            Place::Zero(true) => status(StatusKind::ZeroAllocated, true),
            Place::Backing => status(if self.backing.is_some() { StatusKind::Data } else { StatusKind::Zero }, false),
            Place::Compressed(..) => Status { is_compressed: true, ..status(StatusKind::Data, true) },
        })
    }
}
