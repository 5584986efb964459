//! Tables of an image in memory: read when they are needed, and written back in an order that a crash does no harm to.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Error, Node};

/// Most bytes of tables that are kept. More are only where all of them wait to be written, which [`Pages::is_full`] tells before.
const MOST_BYTES: usize = 16 << 20;

/// A stretch of the image's file that is read and written as one: at most a few hundred KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// How long it is, bytes.
    pub(crate) length: usize,
}

/// When a page is written: those that others point to come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// It points to data.
    Leaf,
    /// It points to leaves, or counts what they have.
    Root,
}

/// A page that is to be written, as it was when it was asked for.
#[derive(Debug)]
pub(crate) struct ChangedPage {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) level: Level,
    change: u64,
}

/// The pages of an image's file that are in memory.
pub(crate) struct Pages {
    file: Arc<Node>,
    /// Held while a page is read from the file, so that what is read is not older than what was written back meanwhile.
    loading: tokio::sync::Mutex<()>,
    // Lock order: last.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By offset.
    pages: HashMap<u64, KeptPage>,
    /// The offsets, in the order in which pages may go.
    order: VecDeque<u64>,
    bytes: usize,
    changed_bytes: usize,
    changes: u64,
}

struct KeptPage {
    bytes: Vec<u8>,
    level: Level,
    /// Number of its last change that is not in the file yet.
    change: Option<u64>,
}

impl Kept {
    fn insert(&mut self, page: Page, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.order.push_back(page.offset);
        self.pages.insert(page.offset, KeptPage { bytes, level: Level::Leaf, change: None });
        // Each is looked at once at most.
        for _ in 0..self.order.len() {
            if self.bytes <= MOST_BYTES {
                break;
            }
            let Some(oldest) = self.order.pop_front() else { break };
            let may_go = |kept: &KeptPage| kept.change.is_none() && oldest != page.offset;
            if self.pages.get(&oldest).is_some_and(may_go) {
                self.bytes -= self.pages.remove(&oldest).map_or(0, |kept| kept.bytes.len());
            } else {
                self.order.push_back(oldest);
            }
        }
    }

    fn get(&mut self, page: Page) -> Result<Option<&mut KeptPage>, Error> {
        match self.pages.get_mut(&page.offset) {
            Some(kept) if kept.bytes.len() != page.length => {
                Err(Error::Corrupt(format!("two tables are at offset {} of the file", page.offset)))
            }
            found => Ok(found),
        }
    }

    fn change(&mut self, page: Page, level: Level, change: &mut dyn FnMut(&mut [u8])) -> Result<bool, Error> {
        self.changes += 1;
        let number = self.changes;
        let Some(kept) = self.get(page)? else { return Ok(false) };
        change(&mut kept.bytes);
        kept.level = kept.level.max(level);
        if kept.change.replace(number).is_none() {
            self.changed_bytes += page.length;
        }
        Ok(true)
    }
}

impl Pages {
    pub(crate) fn new(file: Arc<Node>) -> Pages {
        Pages { file, loading: tokio::sync::Mutex::default(), kept: Mutex::default() }
    }

    /// What `take` makes of the bytes of a page.
    pub(crate) async fn read<T>(&self, page: Page, take: impl Fn(&[u8]) -> T) -> Result<T, Error> {
        loop {
            if let Some(taken) = self.kept.lock().get(page)?.map(|kept| take(&kept.bytes)) {
                return Ok(taken);
            }
            self.load(page).await?;
        }
    }

    /// Changes the bytes of a page. They get to the file when the driver is flushed.
    pub(crate) async fn change(
        &self,
        page: Page,
        level: Level,
        mut change: impl FnMut(&mut [u8]) + Send,
    ) -> Result<(), Error> {
        while !self.kept.lock().change(page, level, &mut change)? {
            self.load(page).await?;
        }
        Ok(())
    }

    /// Adds a page of zeros in a part of the file that had nothing before.
    pub(crate) fn add(&self, page: Page, level: Level) -> Result<(), Error> {
        let mut kept = self.kept.lock();
        if kept.get(page)?.is_none() {
            kept.insert(page, vec![0; page.length]);
        }
        kept.change(page, level, &mut |bytes| bytes.fill(0)).map(|_| ())
    }

    async fn load(&self, page: Page) -> Result<(), Error> {
        let _turn = self.loading.lock().await;
        if self.kept.lock().get(page)?.is_none() {
            let bytes = self.file.read_vec(page.offset, page.length).await?;
            self.kept.lock().insert(page, bytes);
        }
        Ok(())
    }

    /// So much waits to be written that it is time to.
    pub(crate) fn is_full(&self) -> bool {
        self.kept.lock().changed_bytes > MOST_BYTES / 2
    }

    /// The pages that are to be written, in the order of their level and offset.
    pub(crate) fn changed(&self) -> Vec<ChangedPage> {
        let kept = self.kept.lock();
        let mut changed: Vec<ChangedPage> = kept
            .pages
            .iter()
            .filter_map(|(offset, page)| {
                let change = page.change?;
                Some(ChangedPage { offset: *offset, bytes: page.bytes.clone(), level: page.level, change })
            })
            .collect();
        changed.sort_by_key(|page| (page.level, page.offset));
        changed
    }

    /// Notes that these are in the file.
    pub(crate) fn written(&self, pages: &[ChangedPage]) {
        let mut kept = self.kept.lock();
        for page in pages {
            let is_same = |kept: &&mut KeptPage| kept.change == Some(page.change);
            if let Some(same) = kept.pages.get_mut(&page.offset).filter(is_same) {
                same.change = None;
                kept.changed_bytes -= page.bytes.len();
            }
        }
    }
}
