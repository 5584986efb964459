//! Compares the contents of two disks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::chain::{Resolved, resolve};
use super::{Progress, SECTOR, TellProgress, length_in_sectors, words};
use crate::{Error, IoVector, Node};

/// Most bytes that are compared at once: two of these stay in a processor's cache.
const REQUEST: u64 = 256 << 10;

/// How disks are compared.
#[derive(Clone)]
pub struct CompareOptions {
    /// How many requests to each disk are under way at once, at least 1.
    pub parallel: usize,
    /// What is known of each stretch (that it takes no room, that it is compressed, ...) must be the same, too.
    pub strict: bool,
    /// Told how far it is.
    pub progress: TellProgress,
}

/// Where disks differ first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The sector, as the offset of its first byte; of a difference in what is known the very offset.
    pub offset: u64,
    /// In which way.
    pub kind: DifferenceKind,
}

/// In which way disks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    /// In bytes.
    Content,
    /// In what is known of them.
    Status,
}

/// Why disks could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// It could not be found out what is where.
    #[error("Sector allocation test failed at offset {offset}: {}", words(.error))]
    Status {
        /// Where, bytes.
        offset: u64,
        /// The reason.
        error: Error,
    },
    /// A disk could not be read.
    #[error("Error while reading offset {offset} of {name}: {}", words(.error), name = if *.is_second { "the second image" } else { "the first image" })]
    Read {
        /// Where, bytes.
        offset: u64,
        /// Which of both.
        is_second: bool,
        /// The reason.
        error: Error,
    },
    /// A thread of the comparison ended.
    #[error("a part of the comparison was given up")]
    GivenUp,
}

/// A stretch that is compared at once.
struct Piece {
    offset: u64,
    length: u64,
    /// Which disks must be read: what is not is zero.
    reads: [bool; 2],
}

struct Compare {
    disks: [Arc<Node>; 2],
    lengths: [u64; 2],
    options: CompareOptions,
    walk: Mutex<Walk>,
    done: AtomicU64,
    /// Offset of the first difference that is known.
    first: parking_lot::Mutex<Option<Difference>>,
}

#[derive(Default)]
struct Walk {
    offset: u64,
    /// Where what is known of each ends.
    found: Option<(u64, [bool; 2])>,
}

/// Finds the first difference of two disks. Where one is longer, the other goes on with zeros.
pub async fn compare(disks: [Arc<Node>; 2], options: CompareOptions) -> Result<Option<Difference>, CompareError> {
    let lengths = [length_in_sectors(&disks[0]), length_in_sectors(&disks[1])];
    let compare = Arc::new(Compare {
        disks,
        lengths,
        options,
        walk: Mutex::default(),
        done: AtomicU64::new(0),
        first: parking_lot::Mutex::new(None),
    });
    compare.report(0);
    let mut workers = JoinSet::new();
    for _ in 0..compare.options.parallel.max(1) {
        let compare = compare.clone();
        workers.spawn(async move { compare.work().await });
    }
    let mut result = Ok(());
    while let Some(ended) = workers.join_next().await {
        result = result.and(ended.unwrap_or(Err(CompareError::GivenUp)));
        if result.is_err() {
            // What is behind is of no interest any more.
            compare.walk.lock().await.offset = u64::MAX;
        }
    }
    let first = *compare.first.lock();
    result.map(|()| first)
}

impl Compare {
    fn report(&self, length: u64) {
        let done = self.done.fetch_add(length, Ordering::Relaxed) + length;
        (self.options.progress)(Progress { done, total: self.lengths[0].max(self.lengths[1]) });
    }

    fn differs(&self, offset: u64, kind: DifferenceKind) {
        let mut first = self.first.lock();
        if first.is_none_or(|known| offset < known.offset) {
            *first = Some(Difference { offset, kind });
        }
    }

    async fn work(&self) -> Result<(), CompareError> {
        let mut memory: Option<[IoVector; 2]> = None;
        while let Some(piece) = self.next().await? {
            let [first, second] = memory.get_or_insert_with(|| [(); 2].map(|()| IoVector::zeroed(REQUEST as usize)));
            let parts = [first.slice(0, piece.length as usize), second.slice(0, piece.length as usize)];
            for (index, part) in parts.iter().enumerate().filter(|(index, _)| piece.reads[*index]) {
                let offset = piece.offset;
                let failed = |error| CompareError::Read { offset, is_second: index == 1, error };
                self.disks[index].read(offset, part.clone()).await.map_err(failed)?;
            }
            let found = match piece.reads {
                [true, true] => parts[0].first_difference(&parts[1]),
                [true, false] => first_nonzero(&parts[0]),
                _ => first_nonzero(&parts[1]),
            };
            if let Some(at) = found {
                self.differs((piece.offset + at as u64) / SECTOR * SECTOR, DifferenceKind::Content);
            }
            self.report(piece.length);
        }
        Ok(())
    }

    async fn status(&self, disk: usize, offset: u64) -> Result<Option<Resolved>, Error> {
        match self.lengths[disk].checked_sub(offset) {
            None | Some(0) => Ok(None),
            Some(left) => resolve(&self.disks[disk], offset, left).await.map(Some),
        }
    }

    /// The next stretch of which something must be read.
    async fn next(&self) -> Result<Option<Piece>, CompareError> {
        let mut walk = self.walk.lock().await;
        let total = self.lengths[0].max(self.lengths[1]);
        loop {
            let offset = walk.offset;
            // Behind a difference there is no first one.
            if offset >= total || self.first.lock().is_some_and(|first| first.offset <= offset) {
                return Ok(None);
            }
            let (end, reads) = match walk.found.filter(|(end, _)| *end > offset) {
                Some(found) => found,
                None => {
                    let failed = |error| CompareError::Status { offset, error };
                    let first = self.status(0, offset).await.map_err(failed)?;
                    let second = self.status(1, offset).await.map_err(failed)?;
                    if self.options.strict && !self.is_same(offset, first.as_ref(), second.as_ref()) {
                        self.differs(offset, DifferenceKind::Status);
                        return Ok(None);
                    }
                    let mut end = total;
                    let reads = [&first, &second].map(|found| match found {
                        Some(found) => {
                            end = end.min(offset + found.length);
                            !found.kind.is_zero()
                        }
                        None => false,
                    });
                    walk.found = Some((end, reads));
                    (end, reads)
                }
            };
            if reads == [false, false] {
                self.report(end - offset);
                walk.offset = end;
                continue;
            }
            let length = (end - offset).min(REQUEST);
            walk.offset += length;
            return Ok(Some(Piece { offset, length, reads }));
        }
    }

    /// The same is known of both from `offset` on.
    fn is_same(&self, offset: u64, first: Option<&Resolved>, second: Option<&Resolved>) -> bool {
        let known = |found: &Resolved, length: u64| {
            let is_last = offset + found.length == length;
            (found.kind, found.is_present, found.is_compressed, found.file_offset.is_some(), is_last)
        };
        match (first, second) {
            (Some(first), Some(second)) => known(first, self.lengths[0]) == known(second, self.lengths[1]),
            _ => true,
        }
    }
}

/// The first sector that is not all zero.
fn first_nonzero(memory: &IoVector) -> Option<usize> {
    let sector = SECTOR as usize;
    (0..memory.len()).step_by(sector).find(|at| !memory.is_zero_within(*at, sector.min(memory.len() - at)))
}
