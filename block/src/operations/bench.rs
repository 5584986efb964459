//! Times requests to a disk.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::words;
use crate::{Backend, Error, IoVector, Node};

/// The requests of a benchmark.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// How many there are.
    pub count: u64,
    /// How many are under way at once, at least 1.
    pub depth: usize,
    /// Where the first is, bytes.
    pub offset: u64,
    /// Length of each, bytes.
    pub length: usize,
    /// How far behind the one before each is, bytes. Behind the end of the disk it goes on at its beginning.
    pub step: u64,
    /// They write.
    pub writes: Option<BenchWrites>,
}

/// How a benchmark writes.
#[derive(Clone, Copy, Debug)]
pub struct BenchWrites {
    /// The byte that is written.
    pub pattern: u8,
    /// Flushes after so many writes; 0: never.
    pub flush_interval: u64,
    /// Writes go on while a flush is under way.
    pub no_drain: bool,
    /// Each write is on stable storage before it is done.
    pub write_through: bool,
}

/// A request failed.
#[derive(Debug, thiserror::Error)]
#[error("Failed request: {}", words(.0))]
pub struct BenchError(#[from] Error);

/// Makes the requests and returns once all are done.
pub async fn bench(disk: Arc<Node>, options: BenchOptions) -> Result<(), BenchError> {
    let length = disk.length();
    let disk = Backend::new(disk);
    let request = |offset, memory: IoVector| {
        let disk = &disk;
        async move {
            match options.writes {
                None => disk.read(offset, memory.clone()).await?,
                Some(writes) => {
                    disk.write(offset, memory.clone()).await?;
                    if writes.write_through {
                        disk.flush().await?;
                    }
                }
            }
            Ok::<IoVector, Error>(memory)
        }
    };
    let (interval, no_drain) = options.writes.map_or((0, false), |writes| (writes.flush_interval, writes.no_drain));
    let mut offset = options.offset;
    let mut unused: Vec<IoVector> = Vec::new();
    let (mut under_way, mut flushes) = (FuturesUnordered::new(), FuturesUnordered::new());
    for made in 1..=options.count {
        let memory = unused.pop().unwrap_or_else(|| {
            let memory = IoVector::zeroed(options.length);
            memory.fill(options.writes.map_or(0, |writes| writes.pattern));
            memory
        });
        under_way.push(request(offset, memory));
        offset = if length <= options.length as u64 { 0 } else { offset.saturating_add(options.step) % length };
        let is_flush_due = interval > 0 && (options.count - made).is_multiple_of(interval);
        let most = if is_flush_due && !no_drain { 0 } else { options.depth.max(1) - 1 };
        while under_way.len() > most {
            if let Some(done) = under_way.next().await {
                unused.push(done?);
            }
        }
        if is_flush_due && no_drain {
            flushes.push(disk.flush());
        } else if is_flush_due {
            disk.flush().await?;
        }
    }
    while let Some(done) = under_way.next().await {
        done?;
    }
    while let Some(done) = flushes.next().await {
        done?;
    }
    Ok(())
}
