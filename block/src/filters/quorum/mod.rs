//! The `quorum` filter: a disk that several disks have, and that is what most of them say.

#[cfg(test)]
mod tests;
mod vote;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use parking_lot::Mutex;

use super::status_through;
use crate::driver::{Driver, Preallocation, Role, Status, StatusKind, ZeroFlags, Zeroed};
use crate::{Error, IoVector, Node};

/// Most bytes that are read from each disk at once.
const AT_ONCE: usize = 1 << 20;
/// Bytes of a sector, by which events count.
const SECTOR: u64 = 512;

/// From which disks is read: QEMU's `QuorumReadPattern`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadPattern {
    /// From all of them; most of them decide.
    #[default]
    Quorum,
    /// From the first one that can be read.
    Fifo,
}

impl ReadPattern {
    /// The patterns, by name.
    pub const ALL: [(&str, ReadPattern); 2] = [("quorum", ReadPattern::Quorum), ("fifo", ReadPattern::Fifo)];
}

/// QEMU's `BlockdevOptionsQuorum`, but for the children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuorumOptions {
    /// How many disks must agree, or have done a request (`vote-threshold`). It must be given.
    pub vote_threshold: u64,
    /// Two disks, which must not differ (`blkverify`); false if it is not given.
    pub blkverify: bool,
    /// Disks that said something else than most are given what those have (`rewrite-corrupted`); false if it is not given.
    pub rewrite_corrupted: bool,
    /// From which disks is read (`read-pattern`); from all, if it is not given.
    pub read_pattern: ReadPattern,
}

/// A kind of request: QEMU's `QuorumOpType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuorumOperation {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It makes durable.
    Flush,
}

impl QuorumOperation {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            QuorumOperation::Read => "read",
            QuorumOperation::Write => "write",
            QuorumOperation::Flush => "flush",
        }
    }
}

/// What users of the machine are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuorumEvent {
    /// Too few disks agree, or have done a request (`QUORUM_FAILURE`).
    Failure {
        /// The first sector of the request.
        sector_num: u64,
        /// How many it has.
        sectors_count: u64,
    },
    /// A disk failed, or has something else than most (`QUORUM_REPORT_BAD`).
    ReportBad {
        /// What it should have done.
        operation: QuorumOperation,
        /// The host's words for the error; nothing if it has something else.
        error: Option<String>,
        /// The disk's name.
        node_name: String,
        /// The first sector of the request.
        sector_num: u64,
        /// How many it has.
        sectors_count: u64,
    },
}

/// Who is told. It must not wait.
pub type QuorumListener = Box<dyn Fn(QuorumEvent) + Send + Sync>;

/// A disk that several disks have.
pub struct Quorum {
    nodes: Vec<Arc<Node>>,
    options: QuorumOptions,
    // Lock order: alone.
    listener: Mutex<Option<QuorumListener>>,
}

/// The part of the disk that a request is about, for events.
#[derive(Clone, Copy)]
struct Request {
    operation: QuorumOperation,
    offset: u64,
    length: u64,
}

impl Request {
    fn sectors(self) -> (u64, u64) {
        let first = self.offset / SECTOR;
        (first, self.offset.saturating_add(self.length).div_ceil(SECTOR) - first)
    }
}

impl Quorum {
    /// The disk that these disks (`children`) have.
    pub fn new(options: QuorumOptions, children: Vec<Arc<Node>>) -> Result<Quorum, Error> {
        let refused = |text: &str| Err(Error::Unsupported(text.into()));
        let (threshold, count) = (options.vote_threshold, children.len() as u64);
        if count == 0 {
            return refused("Number of provided children must be 1 or more");
        }
        if threshold == 0 {
            return refused("Parameter 'vote-threshold' expects a value >= 1");
        }
        if threshold > count {
            return refused("threshold may not exceed children count");
        }
        if options.read_pattern == ReadPattern::Quorum {
            if options.blkverify && (count != 2 || threshold != 2) {
                return refused("blkverify=on can only be set if there are exactly two files and vote-threshold is 2");
            }
            if options.rewrite_corrupted && options.blkverify {
                return refused("rewrite-corrupted=on cannot be used with blkverify=on");
            }
        }
        Ok(Quorum { nodes: children, options, listener: Mutex::new(None) })
    }

    /// Who is told of disks that are not as they should be.
    pub fn listen(&self, listener: QuorumListener) {
        *self.listener.lock() = Some(listener);
    }

    fn tell(&self, event: QuorumEvent) {
        tracing::debug!("quorum: {event:?}");
        if let Some(listener) = &*self.listener.lock() {
            listener(event);
        }
    }

    fn report_bad(&self, request: Request, disk: usize, error: Option<&Error>) {
        let (sector_num, sectors_count) = request.sectors();
        let words = |error: &Error| crate::host_words(&std::io::Error::from_raw_os_error(error.errno()));
        self.tell(QuorumEvent::ReportBad {
            operation: request.operation,
            error: error.map(words),
            node_name: self.nodes[disk].name().to_owned(),
            sector_num,
            sectors_count,
        });
    }

    fn report_failure(&self, request: Request) {
        let (sector_num, sectors_count) = request.sectors();
        self.tell(QuorumEvent::Failure { sector_num, sectors_count });
    }

    /// What becomes of a request that all disks were given.
    fn decide(&self, request: Request, results: Vec<Result<(), Error>>) -> Result<(), Error> {
        let mut errors = Vec::new();
        let count = results.len();
        for (disk, result) in results.into_iter().enumerate() {
            if let Err(error) = result {
                self.report_bad(request, disk, Some(&error));
                errors.push(error);
            }
        }
        if (count - errors.len()) as u64 >= self.options.vote_threshold {
            return Ok(());
        }
        self.report_failure(request);
        vote::most_frequent(errors).map_or(Ok(()), Err)
    }

    /// Reads from the first disk that can be read.
    async fn read_first(&self, request: Request, to: IoVector) -> Result<(), Error> {
        let mut last = Ok(());
        for (disk, node) in self.nodes.iter().enumerate() {
            last = node.read(request.offset, to.clone()).await;
            match &last {
                Ok(()) => break,
                Err(error) => self.report_bad(request, disk, Some(error)),
            }
        }
        last
    }

    /// Reads what most disks have.
    async fn read_by_vote(&self, request: Request, to: IoVector) -> Result<(), Error> {
        let buffers: Vec<IoVector> = self.nodes.iter().map(|_| IoVector::zeroed(to.len())).collect();
        let reads = self.nodes.iter().zip(&buffers).map(|(node, buffer)| node.read(request.offset, buffer.clone()));
        let (mut answers, mut errors) = (Vec::new(), Vec::new());
        for (disk, result) in join_all(reads).await.into_iter().enumerate() {
            match result {
                Ok(()) => answers.push((disk, buffers[disk].clone())),
                Err(error) => {
                    self.report_bad(request, disk, Some(&error));
                    errors.push(error);
                }
            }
        }
        if (answers.len() as u64) < self.options.vote_threshold {
            self.report_failure(request);
            return vote::most_frequent(errors).map_or(Ok(()), Err);
        }
        let versions = vote::versions(&answers);
        if self.options.blkverify
            && let [first, second] = &versions[..]
        {
            let (first, second) = (&buffers[first[0]], &buffers[second[0]]);
            let place = request.offset + first.first_difference(second).unwrap_or(0) as u64;
            let Request { offset, length, .. } = request;
            let text = format!("quorum: offset={offset} bytes={length} contents mismatch at offset {place}");
            tracing::error!("{text}");
            return Err(Error::Differs(text));
        }
        let most = versions.iter().map(Vec::len).max().unwrap_or(0);
        let winner = versions.iter().position(|disks| disks.len() == most).unwrap_or(0);
        if (most as u64) < self.options.vote_threshold {
            self.report_failure(request);
            return Err(Error::host("read", std::io::Error::from_raw_os_error(libc::EIO)));
        }
        let content = &buffers[versions[winner][0]];
        for (_, disks) in versions.iter().enumerate().filter(|(version, _)| *version != winner) {
            for disk in disks {
                self.report_bad(request, *disk, None);
                let node = &self.nodes[*disk];
                if self.options.rewrite_corrupted && !node.is_read_only() {
                    // Where that fails, the disk stays as bad as it was.
                    let _ = node.write(request.offset, content.clone()).await;
                }
            }
        }
        to.copy_from_vector(content);
        Ok(())
    }
}

#[async_trait]
impl Driver for Quorum {
    fn name(&self) -> &'static str {
        "quorum"
    }
    fn length(&self) -> u64 {
        // Those that are shorter read as zeros behind their ends, and fail to agree.
        self.nodes.iter().map(|node| node.length()).max().unwrap_or(0)
    }
    fn is_read_only(&self) -> bool {
        self.nodes.iter().any(|node| node.is_read_only())
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let mut done = 0;
        while done < to.len() {
            let part = to.slice(done, (to.len() - done).min(AT_ONCE));
            let length = part.len() as u64;
            let request = Request { operation: QuorumOperation::Read, offset: offset + done as u64, length };
            done += part.len();
            match self.options.read_pattern {
                ReadPattern::Quorum => self.read_by_vote(request, part).await?,
                ReadPattern::Fifo => self.read_first(request, part).await?,
            }
        }
        Ok(())
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let mut done = 0;
        while done < from.len() {
            let part = from.slice(done, (from.len() - done).min(AT_ONCE));
            let at = offset + done as u64;
            // All are to get the same, whatever the guest does meanwhile.
            let data = IoVector::zeroed(part.len());
            data.copy_from_vector(&part);
            let results = join_all(self.nodes.iter().map(|node| node.write(at, data.clone()))).await;
            let request = Request { operation: QuorumOperation::Write, offset: at, length: part.len() as u64 };
            self.decide(request, results)?;
            done += part.len();
        }
        Ok(())
    }
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        let results = join_all(self.nodes.iter().map(|node| node.write_zeroes(offset, length, flags))).await;
        self.decide(Request { operation: QuorumOperation::Write, offset, length }, results)?;
        Ok(Zeroed::Done)
    }
    async fn flush(&self) -> Result<(), Error> {
        let results = join_all(self.nodes.iter().map(|node| node.flush())).await;
        self.decide(Request { operation: QuorumOperation::Flush, offset: 0, length: 0 }, results)
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let mut all = Status { length, kind: StatusKind::Zero, is_here: true, file_offset: None, is_compressed: false };
        for node in &self.nodes {
            // Behind the end of a shorter one there is nothing to be told.
            let status = match offset < node.length() {
                true => status_through(node, offset, all.length).await.ok(),
                false => None,
            };
            // What most have must be found out by reading, unless all have zeros.
            all.kind = match status {
                Some(status) if status.kind.is_zero() && all.kind.is_zero() => status.kind,
                _ => StatusKind::Data,
            };
            all.length = status.map_or(all.length, |status| all.length.min(status.length));
        }
        Ok(all)
    }
    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        for node in &self.nodes {
            node.truncate(length, preallocation).await?;
        }
        Ok(())
    }
    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        self.nodes.iter().map(|node| (Role::Copy, node.clone())).collect()
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
