//! A sparse extent: a file with a grain directory, whose entries point to grain tables, whose entries point to grains.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{ExtentInfo, SECTOR};
use crate::deflate::{Wrapper, deflate, inflate};
use crate::fields::{Endian, Fields};
use crate::sparse::{Layout, Level, Pages, Place, Sparse, Table};
use crate::{Error, FieldError, Node};

pub(super) const MAGIC: &[u8; 4] = b"KDMV";
/// Bytes behind the flag for a shutdown: they show whether somebody has taken the file for text.
pub(super) const CHECK: &[u8; 4] = b"\n \r\n";
pub(super) const HEADER: u64 = 512;
pub(super) const HAS_REDUNDANT: u32 = 1 << 1;
pub(super) const HAS_ZERO_GRAINS: u32 = 1 << 2;
pub(super) const IS_COMPRESSED: u32 = 1 << 16;
pub(super) const HAS_MARKERS: u32 = 1 << 17;
/// The directory's place is in a copy of the header, at the end of the file.
const AT_END: u64 = u64::MAX;
/// Where that is, from the end: it has a marker before it, and the marker of the end of the stream behind it.
const FOOTER_FROM_END: u64 = 1024;
/// An entry of a grain table, where the extent has grains of zeros: the grain is one.
const ZERO: u64 = 1;
/// Bytes before a compressed grain: its first sector, and its length.
const MARKER: usize = 12;
/// Most sectors of a disk.
pub(super) const MOST_SECTORS: u64 = 1 << 40;
/// Most bytes of a grain.
const MOST_GRAIN: u64 = 64 << 20;
/// Most entries of a grain table.
const MOST_TABLE_ENTRIES: u32 = 512;
/// Most bytes of a descriptor.
const MOST_DESCRIPTOR: u64 = 1 << 20;

/// What the header of a sparse extent says.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    flags: u32,
    /// Sectors of the disk.
    pub(super) capacity: u64,
    /// Sectors of a grain.
    grain: u64,
    /// Where the descriptor is in the file, and how long it is, bytes; a length of 0: there is none.
    pub(super) descriptor: (u64, u64),
    table_entries: u32,
    redundant: u64,
    directory: u64,
}

impl Header {
    /// Reads it, or its copy at the end.
    pub(super) async fn read(file: &Node) -> Result<Header, Error> {
        let first = file.read_vec(0, HEADER.min(file.length()) as usize).await?;
        let header = Header::parse(&first)?;
        if header.directory != AT_END {
            return Ok(header);
        }
        let Some(at) = file.length().checked_sub(FOOTER_FROM_END) else {
            return Err(Error::Corrupt("the file is too short for a footer".into()));
        };
        let footer = Header::parse(&file.read_vec(at, HEADER as usize).await?)?;
        if footer.directory == AT_END {
            return Err(FieldError::value("gdOffset of the footer", AT_END, "it must be a sector of the file").into());
        }
        Ok(Header { descriptor: header.descriptor, ..footer })
    }

    fn parse(bytes: &[u8]) -> Result<Header, Error> {
        let mut fields = Fields::little("the header of a VMDK extent", bytes);
        if fields.bytes("magicNumber", 4)? != MAGIC {
            return Err(Error::Unsupported("the extent is not a sparse VMDK extent".into()));
        }
        let version = fields.u32("version")?;
        if !(1..=3).contains(&version) {
            return Err(FieldError::value("version", version, "1, 2 and 3 are known").into());
        }
        let flags = fields.u32("flags")?;
        let capacity = fields.u64("capacity")?;
        if capacity > MOST_SECTORS {
            let valid = format!("it must be at most {MOST_SECTORS} sectors");
            return Err(FieldError::value("capacity", capacity, valid).into());
        }
        let grain = fields.u64("grainSize")?;
        if !grain.is_power_of_two() || grain > MOST_GRAIN / SECTOR {
            let valid = format!("it must be a power of two and at most {} sectors", MOST_GRAIN / SECTOR);
            return Err(FieldError::value("grainSize", grain, valid).into());
        }
        let (descriptor, descriptor_size) = (fields.u64("descriptorOffset")?, fields.u64("descriptorSize")?);
        if descriptor_size > MOST_DESCRIPTOR / SECTOR {
            let valid = format!("it must be at most {} sectors", MOST_DESCRIPTOR / SECTOR);
            return Err(FieldError::value("descriptorSize", descriptor_size, valid).into());
        }
        let descriptor_at = descriptor
            .checked_mul(SECTOR)
            .ok_or_else(|| FieldError::value("descriptorOffset", descriptor, "it must be a sector of the file"))?;
        let table_entries = fields.u32("numGTEsPerGT")?;
        if !(1..=MOST_TABLE_ENTRIES).contains(&table_entries) {
            let valid = format!("it must be between 1 and {MOST_TABLE_ENTRIES}");
            return Err(FieldError::value("numGTEsPerGT", table_entries, valid).into());
        }
        let (redundant, directory) = (fields.u64("rgdOffset")?, fields.u64("gdOffset")?);
        fields.u64("overHead")?;
        fields.u8("uncleanShutdown")?;
        if fields.bytes("line ends", 4)? != CHECK {
            return Err(Error::Corrupt("the line ends in the header have been changed: it was taken for text".into()));
        }
        let compression = fields.u16("compressAlgorithm")?;
        let expected = u16::from(flags & IS_COMPRESSED != 0);
        if compression != expected {
            let valid = format!("with these flags it must be {expected} (1: deflate)");
            return Err(FieldError::value("compressAlgorithm", compression, valid).into());
        }
        let descriptor = if descriptor == 0 { (0, 0) } else { (descriptor_at, descriptor_size * SECTOR) };
        Ok(Header { version, flags, capacity, grain, descriptor, table_entries, redundant, directory })
    }

    /// What is known of the extent, whose file has a path, and of whose form the descriptor says `form`.
    pub(super) fn info(&self, path: PathBuf, form: &'static str) -> ExtentInfo {
        ExtentInfo {
            path: Some(path),
            length: self.capacity * SECTOR,
            form,
            grain: Some(self.grain * SECTOR),
            is_compressed: self.is_compressed(),
        }
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.flags & IS_COMPRESSED != 0
    }
}

/// The disk of a sparse extent.
pub(super) fn open(file: Arc<Node>, header: Header, backing: Option<Arc<Node>>) -> Result<Sparse<Extent>, Error> {
    let entries = header.capacity.div_ceil(header.grain * u64::from(header.table_entries));
    let directory = |field, sector: u64| {
        let start = sector.saturating_mul(SECTOR);
        let table = Table { start, entries, width: 4, endian: Endian::Little };
        table.check(field, SECTOR, entries, &file).map(|()| table)
    };
    let extent = Extent {
        directory: directory("gdOffset", header.directory)?,
        redundant: match header.flags & HAS_REDUNDANT {
            0 => None,
            _ => Some(directory("rgdOffset", header.redundant)?),
        },
        pages: Pages::new(file.clone()),
        end: Mutex::new(file.length()),
        file: file.clone(),
        header,
        adding: tokio::sync::Mutex::default(),
    };
    Ok(Sparse::new(file, backing, extent))
}

pub(super) struct Extent {
    pages: Pages,
    file: Arc<Node>,
    header: Header,
    directory: Table,
    /// The copy of the directory, whose tables are copies too.
    redundant: Option<Table>,
    /// Where the file ends once everything is written that has got its place.
    // Lock order: alone.
    end: Mutex<u64>,
    /// Held while a grain table is added, so that no two are for the same grains.
    adding: tokio::sync::Mutex<()>,
}

impl Extent {
    /// Room for so many bytes behind everything else, at a multiple of `alignment`.
    fn room(&self, length: u64, alignment: u64) -> Result<u64, Error> {
        let mut end = self.end.lock();
        let start = end.next_multiple_of(alignment);
        if start / SECTOR > u32::MAX.into() {
            return Err(Error::Unsupported("the extent's file is as long as one of VMDK can be".into()));
        }
        *end = start + length;
        Ok(start)
    }

    /// The grain table that an entry of a directory points to.
    fn table(&self, sector: u64) -> Result<Option<Table>, Error> {
        if sector == 0 {
            return Ok(None);
        }
        let table = Table {
            start: sector * SECTOR,
            entries: self.header.table_entries.into(),
            width: 4,
            endian: Endian::Little,
        };
        // New ones are not in the file before they are flushed.
        let end = *self.end.lock();
        if table.start + table.entries * 4 > end {
            let valid =
                format!("{} entries must be there, and the file ends at sector {}", table.entries, end / SECTOR);
            return Err(FieldError::value("the sector of a grain table", sector, valid).into());
        }
        Ok(Some(table))
    }

    /// The indexes of a grain in the directory and in its table.
    fn indexes(&self, block: u64) -> (u64, u64) {
        let entries = u64::from(self.header.table_entries);
        (block / entries, block % entries)
    }

    /// A grain table for an entry of the directory and of its copy; where there is none, it is made.
    async fn tables(&self, index: u64) -> Result<Vec<Table>, Error> {
        let _turn = self.adding.lock().await;
        let mut tables = Vec::new();
        for directory in [Some(self.directory), self.redundant].into_iter().flatten() {
            let found = self.table(directory.get(&self.pages, index).await?)?;
            let table = match found {
                Some(table) => table,
                None => {
                    let start = self.room(u64::from(self.header.table_entries) * 4, SECTOR)?;
                    let entries = self.header.table_entries.into();
                    let added = Table { start, entries, width: 4, endian: Endian::Little };
                    added.add(&self.pages, Level::Leaf)?;
                    directory.set(&self.pages, index, start / SECTOR, Level::Root).await?;
                    added
                }
            };
            tables.push(table);
        }
        Ok(tables)
    }

    fn has_zero_grains(&self) -> bool {
        self.header.flags & HAS_ZERO_GRAINS != 0
    }
}

#[async_trait]
impl Layout for Extent {
    fn name(&self) -> &'static str {
        "vmdk"
    }
    fn length(&self) -> u64 {
        self.header.capacity * SECTOR
    }
    fn block_size(&self) -> u64 {
        self.header.grain * SECTOR
    }
    fn pages(&self) -> &Pages {
        &self.pages
    }
    fn is_read_only(&self) -> bool {
        // What else a version 3 may have is not public.
        self.header.version == 3 && !self.header.is_compressed()
    }
    fn can_be_zero(&self) -> bool {
        self.has_zero_grains()
    }

    async fn find(&self, block: u64) -> Result<Place, Error> {
        let (index, of_table) = self.indexes(block);
        let table = self.table(self.directory.get(&self.pages, index).await?)?;
        let Some(table) = table else { return Ok(Place::Absent) };
        let sector = table.get(&self.pages, of_table).await?;
        match sector {
            0 => return Ok(Place::Absent),
            ZERO if self.has_zero_grains() => return Ok(Place::Zero),
            _ => {}
        }
        match Place::at(sector * SECTOR, "the offset of a grain", SECTOR, &self.file)? {
            Place::At(offset) if self.header.is_compressed() => {
                // How long it is stands there. What cannot be compressed gets a little longer.
                let most = (self.block_size() * 2 + SECTOR).min(self.file.length() - offset);
                Ok(Place::Packed(offset, most as usize))
            }
            place => Ok(place),
        }
    }

    async fn reserve(&self) -> Result<u64, Error> {
        if self.header.is_compressed() {
            return Err(Error::Unsupported(
                "an extent with compressed grains is written in whole compressed grains".into(),
            ));
        }
        self.room(self.block_size(), self.block_size())
    }

    async fn set(&self, block: u64, place: Place) -> Result<(), Error> {
        let entry = match place {
            Place::At(offset) | Place::Packed(offset, _) => offset / SECTOR,
            Place::Zero => ZERO,
            Place::Absent => 0,
        };
        let (index, of_table) = self.indexes(block);
        for table in self.tables(index).await? {
            table.set(&self.pages, of_table, entry, Level::Leaf).await?;
        }
        Ok(())
    }

    async fn unpack(&self, block: u64, packed: Vec<u8>) -> Result<Vec<u8>, Error> {
        if self.header.flags & HAS_MARKERS == 0 {
            return inflate(packed, self.block_size() as usize, Wrapper::Zlib).await;
        }
        let mut fields = Fields::little("the marker of a compressed grain", &packed);
        let first = fields.u64("lba")?;
        if first != block * self.header.grain {
            let valid = format!("the grain begins at sector {}", block * self.header.grain);
            return Err(FieldError::value("lba of a compressed grain", first, valid).into());
        }
        let length = fields.u32("size")?;
        if length as usize > fields.left() {
            let valid = format!("at most {} bytes can be there", fields.left());
            return Err(FieldError::value("size of a compressed grain", length, valid).into());
        }
        let data = fields.bytes("data", length as usize)?.to_vec();
        inflate(data, self.block_size() as usize, Wrapper::Zlib).await
    }

    fn has_packed(&self) -> bool {
        self.header.is_compressed()
    }
    fn needs_compression(&self) -> bool {
        self.header.is_compressed()
    }

    async fn compress(&self, data: Vec<u8>) -> Result<Option<Vec<u8>>, Error> {
        if !self.header.is_compressed() {
            return Ok(None);
        }
        let most = data.len() + data.len() / 8 + 1024;
        let compressed = deflate(data, most, Wrapper::Zlib, 15).await?;
        compressed.map(Some).ok_or_else(|| Error::Unsupported("a grain cannot be compressed".into()))
    }

    async fn pack(&self, block: u64, compressed: Vec<u8>) -> Result<(u64, Vec<u8>, Place), Error> {
        let mut bytes = Vec::with_capacity(MARKER + compressed.len());
        if self.header.flags & HAS_MARKERS != 0 {
            bytes.extend((block * self.header.grain).to_le_bytes());
            bytes.extend((compressed.len() as u32).to_le_bytes());
        }
        bytes.extend(compressed);
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        let room = self.room(bytes.len() as u64, SECTOR)?;
        let place = Place::Packed(room, bytes.len());
        Ok((room, bytes, place))
    }
}
