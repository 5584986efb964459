//! The file's format. All numbers are little-endian.
//!
//! A header: eight bytes of [`MAGIC`], the identity (u64), the number of entries (u32) and a checksum (u32) of the identity, that number and
//! the index. The index, sorted by hash: for each entry the [`hash`] of its beginning (u64), where it begins in the file (u64), its length (u32)
//! and its checksum (u32). Then the entries: kind, translation flags, the parts of guest code, relocations, guest code and host code.

use std::hash::{Hash, Hasher};
use std::io::{self, Write};

use rustc_hash::FxHasher;

use crate::compile::{Code, Relocation, Target};
use crate::platform::PAGE_SIZE;

const MAGIC: &[u8; 8] = b"BROLGA\x00\x01";
const HEADER: usize = 24;
/// Bytes of an entry in the index.
pub(super) const INDEX_ENTRY: usize = 24;
/// Bytes of an entry before its parts.
const ENTRY_HEADER: usize = 16;
const PART: usize = 4;
const RELOCATION: usize = 8;
/// How many bytes of guest code count for the hash, if the page has as many: also those behind a shorter block, which are mostly the
/// same when it is.
pub(crate) const HASHED: usize = 16;
/// The numbers that stand for [`Target::Translation`] and [`Target::Counter`]; no distance in a page is that large.
const TRANSLATION: i32 = i32::MIN;
const COUNTER: i32 = i32::MIN + 1;
/// What is added to the distance of a [`Target::Jump`].
const JUMP: i32 = 1 << 20;

/// What an entry is the code of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// One block, by the baseline compiler.
    Block,
    /// A region.
    Region,
}

/// Guest code of an entry, all in one page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// Where it is in the page.
    pub(crate) offset: u16,
    /// Its bytes.
    pub(crate) code: &'a [u8],
}

/// Compiled code with the guest code that it was made from.
pub(crate) struct Entry<'a> {
    pub(crate) kind: Kind,
    /// Translation flags.
    pub(crate) flags: u32,
    /// Where its head is in the page.
    pub(crate) offset: u16,
    parts: &'a [u8],
    relocations: &'a [u8],
    /// All parts' guest code, one behind the other; the head's comes first.
    pub(crate) guest: &'a [u8],
    /// Host code.
    pub(crate) host: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What an entry is found by: its flags, its place in the page and what is there, to the page's end or longer than is needed.
pub(crate) fn hash(flags: u32, offset: u16, code: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    (flags, offset).hash(&mut hasher);
    code[..code.len().min(HASHED)].hash(&mut hasher);
    hasher.finish()
}

impl<'a> Entry<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Entry<'a>> {
        let (header, rest) = bytes.split_at_checked(ENTRY_HEADER)?;
        let kind = match header[0] {
            0 => Kind::Block,
            1 => Kind::Region,
            _ => return None,
        };
        let (parts, rest) = rest.split_at_checked(PART * usize::from(u16_at(header, 2)?))?;
        let (relocations, rest) = rest.split_at_checked(RELOCATION * u32_at(header, 8)? as usize)?;
        let (guest, host) = rest.split_at_checked(u32_at(header, 12)? as usize)?;
        let entry =
            Entry { kind, flags: u32_at(header, 4)?, offset: u16_at(parts, 0)?, parts, relocations, guest, host };
        let total: usize = entry.spans().map(|(_, length)| usize::from(length)).sum();
        let in_page = entry.spans().all(|(offset, length)| u64::from(offset) + u64::from(length) <= PAGE_SIZE);
        (total == guest.len() && in_page).then_some(entry)
    }

    /// Where its parts are in the page, and how long they are.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (u16, u16)> + use<'a> {
        self.parts.chunks_exact(PART).filter_map(|part| Some((u16_at(part, 0)?, u16_at(part, 2)?)))
    }

    /// The guest code of its head.
    pub(crate) fn head(&self) -> &'a [u8] {
        let length = self.spans().next().map_or(0, |(_, length)| usize::from(length));
        &self.guest[..length]
    }

    /// True if a page holds its guest code.
    pub(super) fn is_of(&self, page: &[u8; PAGE_SIZE as usize]) -> bool {
        let mut guest = self.guest;
        self.spans().all(|(offset, length)| {
            let (part, rest) = guest.split_at(usize::from(length));
            guest = rest;
            page[usize::from(offset)..].starts_with(part)
        })
    }

    /// The host code, to be placed.
    pub(crate) fn code(&self) -> Code {
        let relocations = self.relocations.chunks_exact(RELOCATION).filter_map(|relocation| {
            let target = match u32_at(relocation, 4)? as i32 {
                TRANSLATION => Target::Translation,
                COUNTER => Target::Counter,
                distance if distance > JUMP / 2 => Target::Jump((distance - JUMP) as i16),
                distance => Target::Cell(distance as i16),
            };
            Some(Relocation { offset: u32_at(relocation, 0)?, target })
        });
        Code { bytes: self.host.to_vec(), relocations: relocations.collect() }
    }

    /// The same for entries that would be used at the same places.
    pub(super) fn guest_identity(&self) -> (Kind, u32, &'a [u8], &'a [u8]) {
        (self.kind, self.flags, self.parts, self.guest)
    }
}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (*self as u8).hash(state);
    }
}

/// An entry of these parts, the head first.
pub(crate) fn encode(kind: Kind, flags: u32, parts: &[Part], host: &[u8], relocations: &[Relocation]) -> Vec<u8> {
    let guest: usize = parts.iter().map(|part| part.code.len()).sum();
    let mut bytes =
        Vec::with_capacity(ENTRY_HEADER + PART * parts.len() + RELOCATION * relocations.len() + guest + host.len());
    bytes.extend([kind as u8, 0]);
    bytes.extend((parts.len() as u16).to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend((relocations.len() as u32).to_le_bytes());
    bytes.extend((guest as u32).to_le_bytes());
    for part in parts {
        bytes.extend(part.offset.to_le_bytes());
        bytes.extend((part.code.len() as u16).to_le_bytes());
    }
    for relocation in relocations {
        let target = match relocation.target {
            Target::Translation => TRANSLATION,
            Target::Counter => COUNTER,
            Target::Jump(distance) => JUMP + i32::from(distance),
            Target::Cell(distance) => distance.into(),
        };
        bytes.extend(relocation.offset.to_le_bytes());
        bytes.extend(target.to_le_bytes());
    }
    for part in parts {
        bytes.extend(part.code);
    }
    bytes.extend(host);
    bytes
}

/// How many entries a file has.
pub(super) fn count(file: &[u8]) -> usize {
    u32_at(file, 16).unwrap_or(0) as usize
}

fn index(file: &[u8]) -> Option<&[u8]> {
    file.get(HEADER..)?.get(..INDEX_ENTRY.checked_mul(count(file))?)
}

/// True if a file's header and index are whole and of this identity.
pub(super) fn is_valid(file: &[u8], identity: u64) -> bool {
    let check = || {
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(file.get(8..20)?);
        checksum.update(index(file)?);
        Some(file.starts_with(MAGIC) && u64_at(file, 8)? == identity && u32_at(file, 20)? == checksum.finalize())
    };
    check().unwrap_or(false)
}

fn hash_at(file: &[u8], number: usize) -> Option<u64> {
    u64_at(file, HEADER + INDEX_ENTRY * number)
}

/// The numbers of the entries that are found by a hash.
pub(super) fn with_hash(file: &[u8], hash: u64) -> impl Iterator<Item = usize> {
    let (mut low, mut high) = (0, count(file));
    while low < high {
        let middle = low + (high - low) / 2;
        if hash_at(file, middle).is_some_and(|found| found < hash) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    (low..count(file)).take_while(move |number| hash_at(file, *number) == Some(hash))
}

/// What an entry is found by, and its bytes, which may be damaged.
pub(super) fn bytes(file: &[u8], number: usize) -> Option<(u64, &[u8])> {
    let at = HEADER + INDEX_ENTRY * number;
    let start = usize::try_from(u64_at(file, at + 8)?).ok()?;
    Some((hash_at(file, number)?, file.get(start..start.checked_add(u32_at(file, at + 16)? as usize)?)?))
}

/// True if the bytes of an entry are those that were written.
pub(super) fn is_whole(file: &[u8], number: usize) -> bool {
    let checksum = u32_at(file, HEADER + INDEX_ENTRY * number + 20);
    bytes(file, number).is_some_and(|(_, bytes)| Some(crc32fast::hash(bytes)) == checksum)
}

/// Writes a file of entries, each with what it is found by.
pub(super) fn write(writer: &mut impl Write, identity: u64, mut entries: Vec<(u64, &[u8])>) -> io::Result<()> {
    entries.sort_by_key(|(hash, _)| *hash);
    let mut position = HEADER + INDEX_ENTRY * entries.len();
    let mut index = Vec::with_capacity(INDEX_ENTRY * entries.len());
    for (hash, bytes) in &entries {
        index.extend(hash.to_le_bytes());
        index.extend((position as u64).to_le_bytes());
        index.extend((bytes.len() as u32).to_le_bytes());
        index.extend(crc32fast::hash(bytes).to_le_bytes());
        position += bytes.len();
    }
    let mut counted = Vec::from(identity.to_le_bytes());
    counted.extend((entries.len() as u32).to_le_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&counted);
    checksum.update(&index);
    writer.write_all(MAGIC)?;
    writer.write_all(&counted)?;
    writer.write_all(&checksum.finalize().to_le_bytes())?;
    writer.write_all(&index)?;
    entries.iter().try_for_each(|(_, bytes)| writer.write_all(bytes))
}
