//! Writing the disk.

use super::entries::{Cluster, l1_entry, l2_table};
use super::image::{Qcow2, State};
use super::read::Place;
use crate::filters::BlkdebugEvent;
use crate::together::all_of;
use crate::{Error, IoVector};

/// Most stretches of a request that are written at once.
const AT_ONCE: usize = 64;

/// A stretch of a request that goes to one stretch of the file.
#[derive(Debug)]
struct Piece {
    /// Where it is on the disk, bytes.
    offset: u64,
    length: u64,
    /// Where that goes in the file with data.
    host: u64,
    /// How many bytes before and behind it go there, too: those that are there now.
    before: u64,
    behind: u64,
    /// The place has zeros already.
    is_blank: bool,
    /// What the tables say afterwards, by the cluster's offset on the disk.
    changes: Vec<(u64, Cluster)>,
}

impl Piece {
    /// Puts `next`, which follows on the disk, to this one, if it follows in the file, too.
    fn join(&mut self, next: Piece) -> Result<(), Piece> {
        let follows = self.behind == 0
            && next.before == 0
            && self.host + self.length == next.host
            && self.is_blank == next.is_blank;
        if !follows {
            return Err(next);
        }
        self.length += next.length;
        self.behind = next.behind;
        self.changes.extend(next.changes);
        Ok(())
    }
}

impl State {
    /// Where `length` bytes at an offset of the disk go if nothing but data need be written; `None` if it must.
    async fn in_place(&mut self, offset: u64, length: u64) -> Result<Option<Vec<Piece>>, Error> {
        let layout = self.layout;
        let mut pieces: Vec<Piece> = Vec::new();
        for (at, part) in clusters(offset, length, layout.cluster()) {
            let Cluster::Plain { host: Some((host, true)), data, .. } = self.cluster_at(at).await? else {
                return Ok(None);
            };
            let touched = layout.parts_at(at, part);
            if data & touched != touched {
                return Ok(None);
            }
            if self.data_file.is_none() {
                self.refcounts.check_place(host)?;
            }
            let host = host + at % layout.cluster();
            add(&mut pieces, Piece { host, ..Piece::new(at, part) });
        }
        Ok(Some(pieces))
    }

    /// Where `length` bytes at an offset of the disk go; takes new clusters for those that have none, or none of their own.
    async fn places(&mut self, offset: u64, length: u64) -> Result<Vec<Piece>, Error> {
        let layout = self.layout;
        let all: Vec<(u64, u64)> = clusters(offset, length, layout.cluster()).collect();
        let mut old = Vec::with_capacity(all.len());
        for (at, _) in &all {
            old.push(self.cluster_at(*at).await?);
        }
        let mut pieces: Vec<Piece> = Vec::new();
        // New clusters that are taken and not yet given out.
        let (mut next, mut left) = (0, 0);
        for (index, (at, part)) in all.into_iter().enumerate() {
            let start = at / layout.cluster() * layout.cluster();
            let touched = layout.parts_at(at, part);
            // How far what must be written reaches on both sides: to whole parts.
            let before = at % layout.part();
            let behind = (at + part).next_multiple_of(layout.part()) - (at + part);
            let piece = match old[index] {
                Cluster::Plain { host: Some((host, true)), data, zero } => {
                    if self.data_file.is_none() {
                        self.refcounts.check_place(host)?;
                    }
                    let is_data = |offset: u64| data & layout.parts_at(offset, 1) != 0;
                    let new = Cluster::Plain { host: Some((host, true)), data: data | touched, zero: zero & !touched };
                    Piece {
                        host: host + at % layout.cluster(),
                        before: if is_data(at) { 0 } else { before },
                        behind: if is_data(at + part - 1) { 0 } else { behind },
                        changes: if new == old[index] { Vec::new() } else { vec![(start, new)] },
                        ..Piece::new(at, part)
                    }
                }
                other => {
                    if left == 0 {
                        let needing = old[index..].iter().take_while(|cluster| !cluster.has_own_place()).count();
                        (next, left) = self.new_clusters(start, needing as u64).await?;
                    }
                    let host = next;
                    (next, left) = (next + layout.cluster(), left - 1);
                    // Data of others is copied whole; where there is none, parts that are not touched stay what they are.
                    let (before, behind, new) = match other {
                        Cluster::Plain { host: None, zero, .. } => {
                            let zero = zero & !touched;
                            (before, behind, Cluster::Plain { host: Some((host, true)), data: touched, zero })
                        }
                        _ => {
                            let new = Cluster::Plain { host: Some((host, true)), data: layout.all_parts(), zero: 0 };
                            (at - start, start + layout.cluster() - (at + part), new)
                        }
                    };
                    Piece {
                        host: host + at % layout.cluster(),
                        before,
                        behind,
                        // Where the file ends there was never anything.
                        is_blank: self.data_file.is_none() && host >= self.file.length(),
                        changes: vec![(start, new)],
                        ..Piece::new(at, part)
                    }
                }
            };
            add(&mut pieces, piece);
        }
        Ok(pieces)
    }

    /// New clusters for data from an offset of the disk on, which begins a cluster: the first one's offset in the file, and how many.
    async fn new_clusters(&mut self, offset: u64, most: u64) -> Result<(u64, u64), Error> {
        if self.data_file.is_some() {
            return Ok((offset, most));
        }
        let file = self.file.clone();
        self.refcounts.allocate(&file, most).await
    }

    /// Room for compressed data: in a cluster that has such data already, or a new one.
    pub(super) async fn allocate_bytes(&mut self, length: u64) -> Result<u64, Error> {
        let (file, cluster) = (self.file.clone(), self.layout.cluster());
        file.event(BlkdebugEvent::ClusterAllocBytes);
        let number = |offset: u64| offset / cluster;
        if let Some(end) = self.compressed_end {
            let left = cluster - end % cluster;
            let goes_on = length <= left || self.refcounts.allocate_at(&file, number(end) + 1).await?;
            if goes_on && self.refcounts.increment(&file, number(end)).await? {
                self.compressed_end = Some(end + length).filter(|end| !end.is_multiple_of(cluster));
                return Ok(end);
            }
            if goes_on && length > left {
                self.unused.push((number(end) + 1) * cluster);
            }
        }
        let host = self.refcounts.allocate_run(&file, 1).await?;
        self.compressed_end = Some(host + length).filter(|end| !end.is_multiple_of(cluster));
        Ok(host)
    }

    /// The L2 table for an offset of the disk, made where there is none that belongs to the active L1 table alone.
    async fn own_l2_table(&mut self, offset: u64) -> Result<u64, Error> {
        let layout = self.layout;
        let index = layout.l1_index(offset);
        let Some(entry) = self.l1.get(index).copied() else {
            return Err(Error::Corrupt(format!("the L1 table has no entry for offset {offset:#x} of the disk")));
        };
        let shared = match l2_table(entry, layout)? {
            Some((table, true)) => return Ok(table),
            Some((table, false)) => Some(table),
            None => None,
        };
        let file = self.file.clone();
        let mut content = Vec::with_capacity(layout.cluster() as usize);
        match shared {
            None => content.resize(layout.cluster() as usize, 0),
            Some(table) => {
                file.event(BlkdebugEvent::L2AllocCowRead);
                while content.len() < layout.cluster() as usize {
                    let bytes = self.l2.bytes(&file, table + content.len() as u64).await?;
                    content.extend_from_slice(bytes);
                }
            }
        }
        let table = self.refcounts.allocate_run(&file, 1).await?;
        self.refcounts.protect(table, 1);
        file.event(BlkdebugEvent::L2AllocWrite);
        self.l2.insert(table, &content);
        self.l1[index] = l1_entry(table, true);
        self.l1_changed.insert(index);
        self.unused.extend(shared);
        Ok(table)
    }

    /// Changes what the tables say of the cluster at an offset of the disk. What it used before becomes unused.
    pub(super) async fn set_cluster(&mut self, offset: u64, new: Cluster) -> Result<(), Error> {
        let layout = self.layout;
        self.check_writable()?;
        let old = self.cluster_at(offset).await?;
        if old == new {
            return Ok(());
        }
        if let Some((first, count)) = old.host_clusters(layout).filter(|_| self.data_file.is_none()) {
            for index in 0..count {
                self.refcounts.check_place(first + index * layout.cluster())?;
            }
        }
        let table = self.own_l2_table(offset).await?;
        let (entry, bitmap) = new.encode(layout);
        let at = table + layout.l2_index(offset) * layout.entry();
        let bytes: Vec<u8> = [entry, bitmap].iter().flat_map(|half| half.to_be_bytes()).collect();
        let file = self.file.clone();
        self.l2.put(&file, at, &bytes[..layout.entry() as usize]).await?;
        if old.host_clusters(layout) != new.host_clusters(layout) {
            self.release(old);
        }
        Ok(())
    }

    /// Says that a cluster's place is not used any more, from when the tables are on stable storage.
    pub(super) fn release(&mut self, cluster: Cluster) {
        if self.data_file.is_some() {
            return;
        }
        if let Some((first, count)) = cluster.host_clusters(self.layout) {
            self.unused.extend((0..count).map(|index| first + index * self.layout.cluster()));
        }
    }
}

impl Piece {
    /// A stretch that goes nowhere yet.
    fn new(offset: u64, length: u64) -> Piece {
        Piece { offset, length, host: 0, before: 0, behind: 0, is_blank: false, changes: Vec::new() }
    }
}

impl Cluster {
    /// Data can be written to it without harm to others.
    fn has_own_place(self) -> bool {
        matches!(self, Cluster::Plain { host: Some((_, true)), .. })
    }
}

fn add(pieces: &mut Vec<Piece>, piece: Piece) {
    let rest = match pieces.last_mut() {
        Some(last) => last.join(piece).err(),
        None => Some(piece),
    };
    pieces.extend(rest);
}

/// The parts of `length` bytes at `offset` that are in one cluster each: offset and length.
pub(super) fn clusters(offset: u64, length: u64, cluster: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + length;
    std::iter::successors(Some(offset), move |at| Some((at / cluster + 1) * cluster))
        .take_while(move |at| *at < end)
        .map(move |at| (at, end.min((at / cluster + 1) * cluster) - at))
}

impl Qcow2 {
    /// Writes `from` at an offset of the disk.
    pub(super) async fn write_disk(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let length = from.len() as u64;
        {
            let _turn = self.requests.shared(offset..offset + length).await;
            let mut state = self.state.lock().await;
            state.check_writable()?;
            let pieces = match state.in_place(offset, length).await {
                Ok(pieces) => pieces,
                Err(error) => return Err(state.mark_corrupt(error).await),
            };
            drop(state);
            if let Some(pieces) = pieces {
                return self.write_pieces(offset, &from, &pieces).await;
            }
        }
        let cluster = self.layout.cluster();
        let whole = offset / cluster * cluster..(offset + length).next_multiple_of(cluster);
        let _turn = self.requests.exclusive(whole).await;
        let mut state = self.state.lock().await;
        let pieces = match state.places(offset, length).await {
            Ok(pieces) => pieces,
            Err(error) => return Err(state.mark_corrupt(error).await),
        };
        drop(state);
        let written = self.write_pieces(offset, &from, &pieces).await;
        let mut state = self.state.lock().await;
        let changes = pieces.into_iter().flat_map(|piece| piece.changes);
        if let Err(error) = written {
            for (at, new) in changes {
                if state.cluster_at(at).await?.host_clusters(self.layout) != new.host_clusters(self.layout) {
                    state.release(new);
                }
            }
            return Err(error);
        }
        for (at, new) in changes {
            if let Err(error) = state.set_cluster(at, new).await {
                return Err(state.mark_corrupt(error).await);
            }
        }
        self.keep_changes_few(&mut state).await
    }

    async fn write_pieces(&self, offset: u64, from: &IoVector, pieces: &[Piece]) -> Result<(), Error> {
        let data = |piece: &Piece| from.slice((piece.offset - offset) as usize, piece.length as usize);
        if let [piece] = pieces {
            return self.write_piece(piece, data(piece)).await;
        }
        for some in pieces.chunks(AT_ONCE) {
            all_of(some.iter().map(|piece| self.write_piece(piece, data(piece)))).await?;
        }
        Ok(())
    }

    async fn write_piece(&self, piece: &Piece, data: IoVector) -> Result<(), Error> {
        let before = self.around(piece.offset - piece.before, piece.before, piece.is_blank).await?;
        let behind = self.around(piece.offset + piece.length, piece.behind, piece.is_blank).await?;
        let start = piece.host - before.as_ref().map_or(0, IoVector::len) as u64;
        let mut all = before.unwrap_or_else(IoVector::empty);
        all.append(data);
        if let Some(behind) = behind {
            all.append(behind);
        }
        if all.len() as u64 > piece.length {
            self.data().event(BlkdebugEvent::CowWrite);
        }
        self.data().event(BlkdebugEvent::WriteAio);
        self.data().write(start, all).await
    }

    /// What is on the disk around a write that takes a whole part of a cluster; `None` if that need not be written.
    async fn around(&self, offset: u64, length: u64, is_blank: bool) -> Result<Option<IoVector>, Error> {
        if length == 0 {
            return Ok(None);
        }
        let extents = self.state.lock().await.extents(offset, length, |_| false).await?;
        let is_zero = |place: Place| match place {
            Place::Zero(_) => true,
            Place::Backing => self.backing.node().is_none_or(|backing| backing.length() <= offset),
            Place::Data(_) | Place::Compressed(..) => false,
        };
        let all_zero = extents.iter().all(|extent| is_zero(extent.place));
        if all_zero && is_blank {
            return Ok(None);
        }
        let bytes = IoVector::zeroed(length as usize);
        if !all_zero {
            self.file.event(BlkdebugEvent::CowRead);
            self.read_places(offset, bytes.clone()).await?;
        }
        Ok(Some(bytes))
    }
}
