//! Tables of numbers, one for each block.

use super::{Level, Page, Pages};
use crate::fields::Endian;
use crate::{Error, FieldError, Node};

/// Bytes of a table that are read and written as one.
const PAGE: u64 = 4096;
/// Bytes of a table that are looked through at once.
const SCANNED: u64 = 1 << 20;

/// Most blocks of a file whose use is noted: 32 MiB of bits.
pub(crate) const MOST_USED: u64 = 1 << 28;

/// A table in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    /// Where it begins in the file.
    pub(crate) start: u64,
    /// How many entries it has.
    pub(crate) entries: u64,
    /// Bytes of an entry: 4 or 8.
    pub(crate) width: u64,
    pub(crate) endian: Endian,
}

impl Table {
    /// Checks that all of it lies within the file, at or behind `first`, and has at least as many entries as are needed.
    pub(crate) fn check(&self, field: &'static str, first: u64, needed: u64, file: &Node) -> Result<(), Error> {
        let length = self.entries.saturating_mul(self.width);
        let fits = self.start >= first && self.start.checked_add(length).is_some_and(|end| end <= file.length());
        if !fits {
            let valid = format!("{length} bytes between {first} and the file's end {} must be there", file.length());
            return Err(FieldError::value(field, self.start, valid).into());
        }
        if self.entries < needed {
            let text = format!("the table at {field} has {} entries, and the disk needs {needed}", self.entries);
            return Err(Error::Corrupt(text));
        }
        Ok(())
    }

    /// The page with an entry, and where the entry is in it.
    fn page(&self, index: u64) -> (Page, usize) {
        let at = index * self.width;
        let first = at / PAGE * PAGE;
        let length = (self.entries * self.width - first).min(PAGE) as usize;
        (Page { offset: self.start + first, length }, (at - first) as usize)
    }

    fn check_index(&self, index: u64) -> Result<(), Error> {
        if index < self.entries {
            return Ok(());
        }
        Err(Error::Corrupt(format!("entry {index} of a table with {} is needed", self.entries)))
    }

    fn take(&self, bytes: &[u8], at: usize) -> Option<u64> {
        if self.width == 8 { self.endian.u64_at(bytes, at) } else { self.endian.u32_at(bytes, at).map(u64::from) }
    }

    /// An entry.
    pub(crate) async fn get(&self, pages: &Pages, index: u64) -> Result<u64, Error> {
        self.check_index(index)?;
        let (page, at) = self.page(index);
        let entry = pages.read(page, |bytes| self.take(bytes, at)).await?;
        entry.ok_or_else(|| Error::Corrupt(format!("entry {index} is not in its table")))
    }

    /// Changes an entry.
    pub(crate) async fn set(&self, pages: &Pages, index: u64, value: u64, level: Level) -> Result<(), Error> {
        self.check_index(index)?;
        let (page, at) = self.page(index);
        let (wide, narrow) = (self.endian.bytes64(value), self.endian.bytes32(value as u32));
        let bytes = if self.width == 8 { &wide[..] } else { &narrow[..] };
        pages.change(page, level, |page| page[at..at + bytes.len()].copy_from_slice(bytes)).await
    }

    /// Adds it to the tables in memory, where the file had nothing before; all entries are 0.
    pub(crate) fn add(&self, pages: &Pages, level: Level) -> Result<(), Error> {
        let mut index = 0;
        while index < self.entries {
            pages.add(self.page(index).0, level)?;
            index += PAGE / self.width;
        }
        Ok(())
    }

    /// Goes through the entries in the file, of which there are as many as `needed`.
    pub(crate) async fn scan(
        &self,
        file: &Node,
        needed: u64,
        mut each: impl FnMut(u64, u64) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let at_once = SCANNED / self.width;
        let mut index = 0;
        while index < needed.min(self.entries) {
            let count = (needed.min(self.entries) - index).min(at_once);
            let bytes = file.read_vec(self.start + index * self.width, (count * self.width) as usize).await?;
            for (at, entry) in bytes.chunks_exact(self.width as usize).enumerate() {
                each(index + at as u64, self.take(entry, 0).unwrap_or_default())?;
            }
            index += count;
        }
        Ok(())
    }
}

/// Which blocks of a file are in use: found by looking through a table, so that no block gets two uses.
#[derive(Default)]
pub(crate) struct Used {
    bits: Vec<u64>,
    end: u64,
}

impl Used {
    /// Notes that a block of the file is in use, for an entry of the table.
    pub(crate) fn mark(&mut self, block: u64, entry: u64) -> Result<(), Error> {
        if block >= MOST_USED {
            let text = format!("block {entry} is at place {block} of the file; at most {MOST_USED} can be checked");
            return Err(Error::Unsupported(text));
        }
        let (word, bit) = ((block / 64) as usize, 1_u64 << (block % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit != 0 {
            return Err(Error::Corrupt(format!(
                "two blocks are at place {block} of the file, one of them block {entry}"
            )));
        }
        self.bits[word] |= bit;
        self.end = self.end.max(block + 1);
        Ok(())
    }

    /// The block behind the last one in use.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }
}

/// Most blocks whose places are compared: 64 MiB of numbers.
pub(crate) const MOST_PLACES: usize = 1 << 24;

/// Where the blocks of a file are that may begin at any sector, so that no two have bytes in common.
#[derive(Default)]
pub(crate) struct Places {
    sectors: Vec<u32>,
}

impl Places {
    /// Notes the first sector of a block.
    pub(crate) fn add(&mut self, sector: u32) -> Result<(), Error> {
        if self.sectors.len() >= MOST_PLACES {
            return Err(Error::Unsupported(format!("the image has more than {MOST_PLACES} blocks in its file")));
        }
        self.sectors.push(sector);
        Ok(())
    }

    /// Checks that no two blocks of so many sectors overlap; returns the sector behind the last one.
    pub(crate) fn check(mut self, sectors_of_block: u64) -> Result<u64, Error> {
        self.sectors.sort_unstable();
        for pair in self.sectors.windows(2) {
            if u64::from(pair[1] - pair[0]) < sectors_of_block {
                let text = format!("two blocks overlap in the file, at sectors {} and {}", pair[0], pair[1]);
                return Err(Error::Corrupt(text));
            }
        }
        Ok(self.sectors.last().map_or(0, |last| u64::from(*last) + sectors_of_block))
    }
}
