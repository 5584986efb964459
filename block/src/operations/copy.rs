//! Copies disks to another, several requests at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;

use super::blocks::runs;
use super::chain::{Joined, resolve};
use super::{REQUEST, SECTOR, words};
use crate::driver::ZeroFlags;
use crate::{Error, IoVector, Node};

/// Where zeros are told from data, bytes: what file systems give room to.
const BLOCK: u64 = 4096;
/// Most bytes that one request makes zero.
const ZEROS: u64 = 256 << 20;

/// How disks are copied.
#[derive(Clone)]
pub struct CopyOptions {
    /// How many requests are under way at once, at least 1.
    pub parallel: usize,
    /// Fewer bytes of zeros in a row are copied as data; 0: all are, and those of stretches that take no room in the source, too.
    pub smallest_hole: u64,
    /// The target reads as zeros before.
    pub target_is_zero: bool,
    /// The target has an image behind it of so many bytes, with what is behind the sources: only what the sources have themselves is
    /// copied.
    pub target_backing: Option<u64>,
    /// How many images of each source's chain count as the source there, at least 1.
    pub own_images: usize,
    /// Data is written in compressed form.
    pub compressed: bool,
    /// Compressed data need not have its order in the target's file.
    pub out_of_order: bool,
    /// Sectors that cannot be read are taken for zeros; who copies is told of each.
    pub salvage: Option<TellUnreadable>,
    /// Most bytes per second.
    pub rate: Option<u64>,
    /// Told how far the copy is.
    pub progress: TellProgress,
}

/// Is told the offset of each sector of the target whose source cannot be read, and why.
pub type TellUnreadable = Arc<dyn Fn(u64, &Error) + Send + Sync>;

/// Is told how far an operation is, by any of its threads.
pub type TellProgress = Arc<dyn Fn(Progress) + Send + Sync>;

impl Default for CopyOptions {
    fn default() -> CopyOptions {
        CopyOptions {
            parallel: 8,
            smallest_hole: BLOCK,
            target_is_zero: false,
            target_backing: None,
            own_images: 1,
            compressed: false,
            out_of_order: false,
            salvage: None,
            rate: None,
            progress: Arc::new(|_| ()),
        }
    }
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are done with.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// Why a copy failed. Offsets are the target's.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It could not be found out what is where.
    #[error("error while reading block status at offset {offset}: {}", words(.error))]
    Status {
        /// Where, bytes.
        offset: u64,
        /// The reason.
        error: Error,
    },
    /// A source could not be read.
    #[error("error while reading at byte {offset}: {}", words(.error))]
    Read {
        /// Where, bytes.
        offset: u64,
        /// The reason.
        error: Error,
    },
    /// The target could not be written.
    #[error("error while writing at byte {offset}: {}", words(.error))]
    Write {
        /// Where, bytes.
        offset: u64,
        /// The reason.
        error: Error,
    },
    /// A thread of the copy ended.
    #[error("a part of the copy was given up")]
    GivenUp,
}

/// What a stretch of the sources has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Data,
    Zeros,
    /// What is behind the target, too.
    Behind,
}

/// A stretch that one request copies.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Its number, in the order of offsets.
    number: u64,
    offset: u64,
    length: u64,
    content: Content,
}

struct Copy {
    sources: Joined,
    target: Arc<Node>,
    options: CopyOptions,
    /// What pieces begin and end at multiples of, bytes: a power of two.
    granule: u64,
    /// Most bytes of a piece of data.
    request: u64,
    walk: Mutex<Walk>,
    turns: Turns,
    done: AtomicU64,
    is_over: AtomicBool,
    started: Instant,
}

/// How far pieces are given out.
#[derive(Default)]
struct Walk {
    offset: u64,
    /// What is there, and where that ends.
    found: Option<(Content, u64)>,
    /// What is behind that, if it is known, and where it ends.
    ahead: Option<(Content, u64)>,
    pieces: u64,
}

/// Pieces that are written one after the other.
#[derive(Default)]
struct Turns {
    state: parking_lot::Mutex<TurnState>,
    changed: Notify,
}

#[derive(Default)]
struct TurnState {
    /// All pieces before this one are done with.
    next: u64,
    /// Further ones that are.
    done: BTreeSet<u64>,
    /// Nobody waits any more.
    is_over: bool,
}

impl Turns {
    /// Waits until all pieces before this one are done with.
    async fn wait(&self, number: u64) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let is_turn = {
                let state = self.state.lock();
                state.is_over || state.next >= number
            };
            if is_turn {
                return;
            }
            changed.await;
        }
    }

    /// This piece is done with.
    fn done(&self, number: u64) {
        let mut state = self.state.lock();
        state.done.insert(number);
        while let Some(first) = state.done.first().copied().filter(|first| *first == state.next) {
            state.done.remove(&first);
            state.next += 1;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Nobody waits any more.
    fn end(&self) {
        self.state.lock().is_over = true;
        self.changed.notify_waiters();
    }
}

/// Copies the disks `sources`, one behind the other, to the beginning of `target`, which is long enough.
///
/// It is not flushed afterwards. Where it fails, what was written by then is there.
pub async fn copy(sources: Vec<Arc<Node>>, target: Arc<Node>, options: CopyOptions) -> Result<(), CopyError> {
    let cluster = target.driver().cluster_size();
    let granule = cluster.max(SECTOR);
    let request = if options.compressed { granule } else { REQUEST.max(granule) };
    let copy = Arc::new(Copy {
        sources: Joined::new(sources),
        target,
        granule,
        request,
        walk: Mutex::default(),
        turns: Turns::default(),
        done: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        started: Instant::now(),
        options,
    });
    copy.report(0);
    let mut workers = JoinSet::new();
    for _ in 0..copy.options.parallel.max(1) {
        let copy = copy.clone();
        workers.spawn(async move { copy.work().await });
    }
    let mut result = Ok(());
    while let Some(ended) = workers.join_next().await {
        result = result.and(ended.unwrap_or(Err(CopyError::GivenUp)));
        if result.is_err() {
            // The others end with the piece that they have; nobody waits for the turn of one that failed.
            copy.is_over.store(true, Ordering::Release);
            copy.turns.end();
        }
    }
    result
}

impl Copy {
    fn report(&self, length: u64) {
        let done = self.done.fetch_add(length, Ordering::Relaxed) + length;
        (self.options.progress)(Progress { done, total: self.sources.length() });
    }

    /// Copies pieces until there are no more.
    async fn work(&self) -> Result<(), CopyError> {
        let mut memory = IoVector::empty();
        while let Some(piece) = self.next().await? {
            if memory.is_empty() && piece.content == Content::Data {
                memory = IoVector::zeroed(self.request as usize);
            }
            self.copy_piece(piece, &memory).await?;
            self.report(piece.length);
        }
        Ok(())
    }

    /// The next piece about which something is to be done.
    async fn next(&self) -> Result<Option<Piece>, CopyError> {
        let mut walk = self.walk.lock().await;
        loop {
            let offset = walk.offset;
            if offset >= self.sources.length() || self.is_over.load(Ordering::Acquire) {
                return Ok(None);
            }
            let (content, end) = match walk.found.filter(|(_, end)| *end > offset) {
                Some(found) => found,
                None => {
                    let found = self.find_all(offset, walk.ahead.take()).await;
                    let (found, ahead) = found.map_err(|error| CopyError::Status { offset, error })?;
                    walk.found = Some(found);
                    walk.ahead = ahead;
                    found
                }
            };
            let is_nothing_to_do = match content {
                Content::Data => false,
                Content::Zeros => self.options.target_is_zero,
                Content::Behind => true,
            };
            if is_nothing_to_do {
                self.report(end - offset);
                walk.offset = end;
                continue;
            }
            let most = if content == Content::Data { self.request } else { ZEROS };
            let length = (end - offset).min(most);
            let piece = Piece { number: walk.pieces, offset, length, content };
            self.keep_to_rate(offset).await;
            walk.offset += length;
            walk.pieces += 1;
            return Ok(Some(piece));
        }
    }

    /// Waits until so many bytes may be done with.
    async fn keep_to_rate(&self, offset: u64) {
        if let Some(rate) = self.options.rate.filter(|rate| *rate > 0) {
            let due = Duration::try_from_secs_f64(offset as f64 / rate as f64).unwrap_or(Duration::MAX);
            tokio::time::sleep(due.saturating_sub(self.started.elapsed())).await;
        }
    }

    /// What is at an offset, as [`Copy::find`], also if it is found in parts: enough for a request. What is found behind is told, too.
    async fn find_all(
        &self,
        offset: u64,
        known: Option<(Content, u64)>,
    ) -> Result<((Content, u64), Option<(Content, u64)>), Error> {
        let (content, mut end) = match known {
            Some(known) => known,
            None => self.find(offset).await?,
        };
        while end < self.sources.length() && end - offset < self.request {
            let next = self.find(end).await?;
            if next.0 != content {
                return Ok(((content, end), Some(next)));
            }
            end = next.1;
        }
        Ok(((content, end), None))
    }

    /// What is at an offset, which is a whole number of granules, and where that ends, whole granules further or at the end.
    async fn find(&self, offset: u64) -> Result<(Content, u64), Error> {
        let (content, length) = self.find_exactly(offset).await?;
        let (end, total) = (offset + length, self.sources.length());
        let down = end / self.granule * self.granule;
        Ok(if end >= total {
            (content, total)
        } else if content != Content::Data && down > offset {
            (content, down)
        } else {
            (Content::Data, end.next_multiple_of(self.granule).min(total))
        })
    }

    async fn find_exactly(&self, offset: u64) -> Result<(Content, u64), Error> {
        let Some((node, within, left)) = self.sources.locate(offset) else {
            return Ok((Content::Zeros, self.sources.length() - offset));
        };
        if let Some(backing) = self.options.target_backing.filter(|backing| offset < *backing) {
            let found = resolve(node, within, left.min(backing - offset)).await?;
            if !found.is_present || found.depth >= self.options.own_images {
                return Ok((Content::Behind, found.length));
            }
        }
        if self.options.smallest_hole == 0 {
            return Ok((Content::Data, left));
        }
        let found = resolve(node, within, left).await?;
        Ok((if found.kind.is_zero() { Content::Zeros } else { Content::Data }, found.length))
    }

    async fn copy_piece(&self, piece: Piece, memory: &IoVector) -> Result<(), CopyError> {
        let Piece { number, offset, length, content } = piece;
        let failed = |error| CopyError::Write { offset, error };
        if content != Content::Data {
            let zeroed = self.write_zeroes(offset, length).await;
            if self.options.compressed {
                self.turns.done(number);
            }
            return zeroed.map_err(failed);
        }
        let memory = memory.slice(0, length as usize);
        self.read(offset, &memory).await?;
        if !self.options.compressed {
            return self.write(offset, &memory).await;
        }
        // A single cluster.
        if self.options.smallest_hole > 0 && memory.is_zero() {
            self.turns.done(number);
            return self.write_zeroes(offset, length).await.map_err(failed);
        }
        let compressed = self.target.compress(memory.clone()).await.map_err(failed)?;
        if !self.options.out_of_order {
            self.turns.wait(number).await;
        }
        let written = self.target.write_as_compressed(offset, memory, compressed).await;
        self.turns.done(number);
        written.map_err(failed)
    }

    /// Makes a stretch of the target zero, if it is not.
    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), Error> {
        if self.options.target_is_zero {
            return Ok(());
        }
        self.target.write_zeroes(offset, length, ZeroFlags::MAY_UNMAP).await
    }

    /// Fills `memory` with what the sources have from `offset` on.
    async fn read(&self, offset: u64, memory: &IoVector) -> Result<(), CopyError> {
        let mut done = 0;
        while done < memory.len() {
            let at = offset + done as u64;
            let Some((node, within, left)) = self.sources.locate(at) else {
                memory.slice(done, memory.len() - done).fill(0);
                break;
            };
            let length = (memory.len() - done).min(usize::try_from(left).unwrap_or(usize::MAX));
            let part = memory.slice(done, length);
            if let Err(error) = node.read(within, part.clone()).await {
                match &self.options.salvage {
                    None => return Err(CopyError::Read { offset: at, error }),
                    Some(tell) => salvage(node, within, &part, |sector, error| tell(at + sector, error)).await,
                }
            }
            done += length;
        }
        Ok(())
    }

    async fn write(&self, offset: u64, memory: &IoVector) -> Result<(), CopyError> {
        let failed = |offset| move |error| CopyError::Write { offset, error };
        let smallest = self.options.smallest_hole;
        if smallest == 0 {
            return self.target.write(offset, memory.clone()).await.map_err(failed(offset));
        }
        let block = self.granule.max(smallest.min(BLOCK)) as usize;
        for run in runs(memory, block, smallest as usize) {
            let (at, part) = (offset + run.start as u64, memory.slice(run.start, run.length));
            let written = if run.is_zero {
                self.write_zeroes(at, run.length as u64).await
            } else {
                self.target.write(at, part).await
            };
            written.map_err(failed(at))?;
        }
        Ok(())
    }
}

/// Reads sector by sector; those that cannot be read are zeros.
async fn salvage(node: &Node, offset: u64, memory: &IoVector, tell: impl Fn(u64, &Error)) {
    for start in (0..memory.len()).step_by(SECTOR as usize) {
        let sector = memory.slice(start, (memory.len() - start).min(SECTOR as usize));
        if let Err(error) = node.read(offset + start as u64, sector.clone()).await {
            tell(start as u64, &error);
            sector.fill(0);
        }
    }
}
