//! Tables of the image in memory.

use rustc_hash::FxHashMap;

use crate::filters::BlkdebugEvent;
use crate::{Error, IoVector, Node};

/// Most bytes of a slice. A table is read and written in slices, so that a small change writes little.
const SLICE: u64 = 4096;

/// Slices of tables, those that were used last, and those that were changed until they are written.
pub(super) struct Cache {
    slices: FxHashMap<u64, Slice>,
    /// Bytes of a slice: a power of two, at most a cluster.
    slice: u64,
    /// Most slices, if they are not changed.
    most: usize,
    /// What the file is told when a slice is read, and when some are written.
    events: [BlkdebugEvent; 2],
    dirty: usize,
    clock: u64,
}

struct Slice {
    bytes: Box<[u8]>,
    is_dirty: bool,
    /// When it was used last.
    used: u64,
}

impl Cache {
    /// A cache for tables of clusters of that size, of at most so many bytes. The file is told of what is read and of what is written.
    pub(super) fn new(cluster: u64, most_bytes: u64, events: [BlkdebugEvent; 2]) -> Cache {
        let slice = SLICE.min(cluster);
        let most = (most_bytes / slice).max(2) as usize;
        Cache { slices: FxHashMap::default(), slice, most, events, dirty: 0, clock: 0 }
    }

    /// There are changes that are not written.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// Changes take up the room: they are to be written before more is read.
    pub(super) fn is_full_of_changes(&self) -> bool {
        self.dirty >= self.most / 2
    }

    async fn slice(&mut self, file: &Node, at: u64) -> Result<(&mut Slice, usize), Error> {
        let start = at / self.slice * self.slice;
        self.clock += 1;
        if !self.slices.contains_key(&start) {
            self.make_room();
            file.event(self.events[0]);
            let bytes = file.read_vec(start, self.slice as usize).await?.into();
            self.slices.insert(start, Slice { bytes, is_dirty: false, used: 0 });
        }
        let Some(slice) = self.slices.get_mut(&start) else {
            return Err(Error::Corrupt("a table was lost from memory".into()));
        };
        slice.used = self.clock;
        Ok((slice, (at - start) as usize))
    }

    /// Drops what was not used for longest, a good part at once, where there is too much.
    fn make_room(&mut self) {
        if self.slices.len() - self.dirty < self.most {
            return;
        }
        let mut times: Vec<u64> =
            self.slices.values().filter(|slice| !slice.is_dirty).map(|slice| slice.used).collect();
        let middle = times.len() / 4;
        let (_, limit, _) = times.select_nth_unstable(middle);
        let limit = *limit;
        self.slices.retain(|_, slice| slice.is_dirty || slice.used > limit);
    }

    /// The big-endian number of 64 bits at an offset of the file.
    pub(super) async fn u64(&mut self, file: &Node, at: u64) -> Result<u64, Error> {
        let (slice, at) = self.slice(file, at).await?;
        Ok(slice.bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }

    /// The bytes from an offset of the file on, up to the end of the slice.
    pub(super) async fn bytes(&mut self, file: &Node, at: u64) -> Result<&[u8], Error> {
        let (slice, at) = self.slice(file, at).await?;
        Ok(&slice.bytes[at..])
    }

    /// Changes bytes at an offset of the file; they are in one slice.
    pub(super) async fn put(&mut self, file: &Node, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let (slice, at) = self.slice(file, at).await?;
        slice.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        if !std::mem::replace(&mut slice.is_dirty, true) {
            self.dirty += 1;
        }
        Ok(())
    }

    /// A new table, which is written whole: `content` says its bytes.
    pub(super) fn insert(&mut self, at: u64, content: &[u8]) {
        self.clock += 1;
        for (index, bytes) in content.chunks(self.slice as usize).enumerate() {
            let slice = Slice { bytes: bytes.into(), is_dirty: true, used: self.clock };
            let before = self.slices.insert(at + index as u64 * self.slice, slice);
            if before.is_none_or(|before| !before.is_dirty) {
                self.dirty += 1;
            }
        }
    }

    /// Forgets a table of so many bytes, which the file has no longer.
    pub(super) fn forget(&mut self, at: u64, length: u64) {
        for start in (at..at + length).step_by(self.slice as usize) {
            if self.slices.remove(&start).is_some_and(|slice| slice.is_dirty) {
                self.dirty -= 1;
            }
        }
    }

    /// Writes what was changed.
    pub(super) async fn write(&mut self, file: &Node) -> Result<(), Error> {
        let mut dirty: Vec<u64> =
            self.slices.iter().filter(|(_, slice)| slice.is_dirty).map(|(start, _)| *start).collect();
        dirty.sort_unstable();
        for run in dirty.chunk_by(|first, second| second - first == self.slice) {
            let data = IoVector::zeroed(run.len() * self.slice as usize);
            for (index, start) in run.iter().enumerate() {
                let part = data.slice(index * self.slice as usize, self.slice as usize);
                if let Some(slice) = self.slices.get(start) {
                    part.copy_from(&slice.bytes);
                }
            }
            file.event(self.events[1]);
            file.write(run[0], data).await?;
            for start in run {
                if let Some(slice) = self.slices.get_mut(start) {
                    slice.is_dirty = false;
                    self.dirty -= 1;
                }
            }
        }
        Ok(())
    }
}
