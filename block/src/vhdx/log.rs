//! The log: changes of metadata that are to be made again if the program that wrote them did not get to its end.

use uuid::Uuid;

use super::MIB;
use super::header::{Header, guid, is_sealed};
use crate::fields::Fields;
use crate::{Error, FieldError, Node, Preallocation, ZeroFlags};

/// What entries are whole numbers of, bytes.
const SECTOR: usize = 4096;
const ENTRY_SIGNATURE: &[u8; 4] = b"loge";
const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;
/// How many times its length of a log is looked at. A log without lies takes two.
const MOST_WORK: usize = 64;
/// Most bytes of a file.
const MOST_FILE: u64 = 1 << 47;

/// An entry of the log that is whole.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where it begins in the log, bytes, and how long it is.
    at: usize,
    length: usize,
    sequence: u64,
    /// Where the oldest entry begins that is not known to be in place.
    tail: u32,
    descriptors: usize,
    /// How long the file was at least when this was written.
    flushed_file: u64,
    /// How long it has to be.
    last_file: u64,
}

/// The log in memory, which goes round.
struct Log {
    bytes: Vec<u8>,
    id: Uuid,
    /// Entries by their first sector, once they have been looked at.
    known: Vec<Option<Option<Entry>>>,
    /// Bytes that may still be looked at.
    work: usize,
}

/// Makes the changes of the log again and empties it; returns the header that then counts.
pub(super) async fn replay(file: &Node, header: Header) -> Result<Header, Error> {
    let bytes = file.read_vec(header.log_offset, header.log_length as usize).await?;
    let id = header.log;
    let sequence = blocking::unblock(move || {
        let known = vec![None; bytes.len() / SECTOR];
        let work = bytes.len().saturating_mul(MOST_WORK);
        let mut log = Log { bytes, id, known, work };
        let active = log.active()?;
        Ok::<_, Error>((log, active))
    });
    let (log, entries) = sequence.await?;
    let before = file.length();
    let Some(newest) = entries.last() else {
        return Err(Error::Corrupt(
            "LogGuid says that there are entries in the log, and there is none that is whole".into(),
        ));
    };
    if newest.flushed_file > before {
        let valid = format!("the file has {before} bytes: its end is missing");
        return Err(FieldError::value("FlushedFileOffset of the log", newest.flushed_file, valid).into());
    }
    if newest.last_file > MOST_FILE {
        let valid = format!("it must be at most {MOST_FILE}");
        return Err(FieldError::value("LastFileOffset of the log", newest.last_file, valid).into());
    }
    let last = newest.last_file.next_multiple_of(MIB);
    if last > before {
        file.truncate(last, Preallocation::Off).await?;
    }
    for entry in entries {
        for change in log.changes(&entry)? {
            change.check(&header, before.max(last))?;
            match change.data {
                Some(data) => file.write_bytes(change.offset, &data).await?,
                None => {
                    // Behind the former end there are zeros already.
                    let end = (change.offset + change.length).min(before);
                    let length = end.saturating_sub(change.offset);
                    file.write_zeroes(change.offset, length, ZeroFlags::MAY_UNMAP).await?;
                }
            }
        }
    }
    file.flush().await?;
    header.without_log().store(file).await
}

/// A change that an entry says: bytes, or zeros.
struct Change {
    offset: u64,
    length: u64,
    data: Option<Vec<u8>>,
}

impl Change {
    /// The log changes what is behind the headers, and not itself.
    fn check(&self, header: &Header, file_end: u64) -> Result<(), Error> {
        let end = self.offset.checked_add(self.length).filter(|end| *end <= file_end);
        let log = header.log_offset..header.log_offset + u64::from(header.log_length);
        let is_apart = |end: u64| end <= log.start || self.offset >= log.end;
        if self.offset >= MIB && end.is_some_and(is_apart) && self.offset.is_multiple_of(SECTOR as u64) {
            return Ok(());
        }
        let valid = format!("{} bytes in sectors of {SECTOR}, outside headers and log, must be there", self.length);
        Err(FieldError::value("FileOffset of a log descriptor", self.offset, valid).into())
    }
}

impl Log {
    /// So many bytes from `at` on, which may go on at the beginning.
    fn part(&self, at: usize, length: usize) -> Vec<u8> {
        let first = length.min(self.bytes.len() - at);
        let mut part = self.bytes[at..at + first].to_vec();
        part.extend(&self.bytes[..(length - first).min(at)]);
        part
    }

    fn look_at(&mut self, length: usize) -> Result<(), Error> {
        let left = self.work.checked_sub(length);
        self.work = left.ok_or_else(|| Error::Corrupt("the entries of the log lie over one another".into()))?;
        Ok(())
    }

    /// The entry that begins at a sector, if there is one that is whole.
    fn entry(&mut self, at: usize) -> Result<Option<Entry>, Error> {
        if let Some(known) = self.known[at / SECTOR] {
            self.look_at(1)?;
            return Ok(known);
        }
        let entry = self.read_entry(at)?;
        self.known[at / SECTOR] = Some(entry);
        Ok(entry)
    }

    fn read_entry(&mut self, at: usize) -> Result<Option<Entry>, Error> {
        let start = self.part(at, ENTRY_HEADER);
        let mut fields = Fields::little("an entry of the log", &start);
        if fields.bytes("signature", 4)? != ENTRY_SIGNATURE {
            return Ok(None);
        }
        fields.u32("checksum")?;
        let (length, tail) = (fields.u32("EntryLength")? as usize, fields.u32("Tail")?);
        let sequence = fields.u64("SequenceNumber")?;
        let descriptors = fields.u32("DescriptorCount")? as usize;
        fields.u32("reserved")?;
        let id = guid(&mut fields, "LogGuid")?;
        let (flushed_file, last_file) = (fields.u64("FlushedFileOffset")?, fields.u64("LastFileOffset")?);
        let is_possible = length >= SECTOR
            && length.is_multiple_of(SECTOR)
            && length <= self.bytes.len()
            && sequence != 0
            && (tail as usize) < self.bytes.len()
            && (tail as usize).is_multiple_of(SECTOR)
            && id == self.id
            && descriptors <= length / DESCRIPTOR;
        if !is_possible {
            return Ok(None);
        }
        self.look_at(length)?;
        let entry = Entry { at, length, sequence, tail, descriptors, flushed_file, last_file };
        Ok(is_sealed(&self.part(at, length)).then_some(entry))
    }

    /// The entries from one on that follow one another, oldest first.
    fn sequence_from(&mut self, first: usize) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        let (mut at, mut total) = (first, 0);
        while let Some(entry) = self.entry(at)? {
            let follows = entries.last().is_none_or(|before| before.sequence.checked_add(1) == Some(entry.sequence));
            total += entry.length;
            if !follows || total > self.bytes.len() {
                break;
            }
            entries.push(entry);
            at = (at + entry.length) % self.bytes.len();
        }
        Ok(entries)
    }

    /// The entries that are to be made again, oldest first: of all sequences the newest one whose last entry has its tail in it.
    fn active(&mut self) -> Result<Vec<Entry>, Error> {
        let mut best: Vec<Entry> = Vec::new();
        let mut at = 0;
        while at < self.bytes.len() {
            let mut entries = self.sequence_from(at)?;
            let newest = entries.last().copied();
            let tail = newest.and_then(|newest| entries.iter().position(|entry| entry.at == newest.tail as usize));
            match (newest, tail) {
                (Some(newest), Some(tail)) => {
                    at = if newest.at < at { self.bytes.len() } else { newest.at + newest.length };
                    if best.last().is_none_or(|best| best.sequence < newest.sequence) {
                        best = entries.split_off(tail);
                    }
                }
                _ => at += SECTOR,
            }
        }
        Ok(best)
    }

    /// What an entry says.
    fn changes(&self, entry: &Entry) -> Result<Vec<Change>, Error> {
        let bytes = self.part(entry.at, entry.length);
        let mut fields = Fields::little("an entry of the log", &bytes);
        fields.bytes("header", ENTRY_HEADER)?;
        // Behind the descriptors, at a whole sector, are the sectors of data.
        let mut data_at = (ENTRY_HEADER + entry.descriptors * DESCRIPTOR).next_multiple_of(SECTOR);
        let mut changes = Vec::new();
        for _ in 0..entry.descriptors {
            let kind = fields.bytes("signature of a descriptor", 4)?;
            let trailing = fields.bytes("TrailingBytes", 4)?;
            let leading = fields.bytes("LeadingBytes", 8)?;
            let (offset, sequence) = (fields.u64("FileOffset")?, fields.u64("SequenceNumber")?);
            if sequence != entry.sequence {
                let valid = format!("its entry's is {}", entry.sequence);
                return Err(FieldError::value("SequenceNumber of a log descriptor", sequence, valid).into());
            }
            match kind {
                b"zero" => {
                    let length = leading.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
                    changes.push(Change { offset, length, data: None });
                }
                b"desc" => {
                    let sector = bytes.get(data_at..data_at + SECTOR).unwrap_or_default();
                    data_at += SECTOR;
                    let mut fields = Fields::little("a data sector of the log", sector);
                    let signature = fields.bytes("signature", 4)?;
                    let high = fields.u32("SequenceHigh")?;
                    let middle = fields.bytes("data", SECTOR - 12)?;
                    let low = fields.u32("SequenceLow")?;
                    if signature != b"data" || u64::from(high) << 32 | u64::from(low) != entry.sequence {
                        return Err(Error::Corrupt("a data sector of the log is not of its entry".into()));
                    }
                    let data = [leading, middle, trailing].concat();
                    changes.push(Change { offset, length: SECTOR as u64, data: Some(data) });
                }
                _ => return Err(Error::Corrupt("a descriptor of the log is neither \"zero\" nor \"desc\"".into())),
            }
        }
        Ok(changes)
    }
}
