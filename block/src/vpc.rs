//! The `vpc` format, VHD: Microsoft's "Virtual Hard Disk Image Format Specification", fixed and dynamic disks.
//!
//! A fixed disk is followed by a footer. A dynamic one begins with a copy of the footer and has a table with a number for each block:
//! where it is in the file, in sectors. Each block begins with a bitmap of its sectors that have data. Like QEMU, reading takes no
//! notice of it: what it leaves out is zero.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::driver::{Role, Status, ZeroFlags, Zeroed};
use crate::fields::{Endian, Fields};
use crate::sparse::{ChangedPage, Layout, Level, Pages, Place, Places, Sparse, Table, check_offset, store_in_order};
use crate::{Driver, Error, FieldError, IoVector, Node, Preallocation};

const FOOTER_COOKIE: &[u8; 8] = b"conectix";
const HEADER_COOKIE: &[u8; 8] = b"cxsparse";
const FOOTER: u64 = 512;
const HEADER: u64 = 1024;
const SECTOR: u64 = 512;
const VERSION: u32 = 0x0001_0000;
/// Where the checksums stand in footer and header.
const FOOTER_CHECKSUM_AT: usize = 64;
const HEADER_CHECKSUM_AT: usize = 36;
/// 2000-01-01, in seconds of Unix's time.
const EPOCH: u64 = 946_684_800;
/// Bytes of a block of images that are made here.
const BLOCK: u64 = 2 << 20;
/// Most bytes of a block.
const MOST_BLOCK: u32 = 256 << 20;
/// Most sectors that a geometry can tell.
const MOST_GEOMETRY: u64 = 65535 * 16 * 255;
/// Most sectors of a disk: 2040 GiB.
const MOST_SECTORS: u64 = 0xff00_0000;
/// An entry of the table: the block has no place.
const ABSENT: u64 = 0xffff_ffff;

/// Whether the first bytes of a file are those of a VHD image. Fixed disks begin with what is on them: they do not look like any.
pub fn probe(start: &[u8]) -> bool {
    start.starts_with(FOOTER_COOKIE)
}

/// What kind of image it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subformat {
    /// Blocks get their place when they are written.
    #[default]
    Dynamic,
    /// The disk's bytes, and a footer.
    Fixed,
}

/// How an image is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateOptions {
    /// Length of the disk, bytes.
    pub size: u64,
    /// Its kind.
    pub subformat: Subformat,
    /// The length is rounded up to whole sectors only, and not to what cylinders, heads and sectors can tell.
    pub force_size: bool,
}

/// Makes an image of a disk of zeros.
pub async fn create(file: &Node, options: &CreateOptions) -> Result<(), Error> {
    let too_long = || Error::Unsupported("The image size is too large for file format 'vpc'".into());
    let asked = options.size.div_ceil(SECTOR);
    if asked > MOST_SECTORS {
        return Err(too_long());
    }
    let mut geometry = Geometry::of(asked);
    let mut sectors = asked;
    if !options.force_size && asked <= MOST_GEOMETRY {
        let enough = (asked..=MOST_GEOMETRY).map(Geometry::of).find(|geometry| geometry.sectors() >= asked);
        geometry = enough.ok_or_else(too_long)?;
        sectors = geometry.sectors();
    }
    let length = sectors * SECTOR;
    let is_fixed = options.subformat == Subformat::Fixed;
    let footer = footer(length, geometry, is_fixed, options.force_size);
    file.truncate(0, Preallocation::Off).await?;
    if is_fixed {
        file.truncate(length, Preallocation::Off).await?;
        file.write_bytes(length, &footer).await?;
        return file.flush().await;
    }
    let entries = length.div_ceil(BLOCK);
    let table = FOOTER + HEADER;
    let mut header = HEADER_COOKIE.to_vec();
    header.extend(u64::MAX.to_be_bytes());
    header.extend(table.to_be_bytes());
    header.extend(VERSION.to_be_bytes());
    header.extend((entries as u32).to_be_bytes());
    header.extend((BLOCK as u32).to_be_bytes());
    header.resize(HEADER as usize, 0);
    seal(&mut header, HEADER_CHECKSUM_AT);
    let mut bytes = footer.clone();
    bytes.extend(header);
    bytes.resize((table + (entries * 4).next_multiple_of(SECTOR)) as usize, 0xff);
    bytes.extend(footer);
    file.write_bytes(0, &bytes).await?;
    file.flush().await
}

/// Cylinders, heads, and sectors of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Geometry {
    cylinders: u16,
    heads: u8,
    sectors_of_track: u8,
}

impl Geometry {
    /// The geometry that the specification's appendix has for a disk of so many sectors, which is often a little shorter.
    fn of(sectors: u64) -> Geometry {
        let sectors = sectors.min(MOST_GEOMETRY);
        let (mut heads, mut of_track) = (16, 255);
        if sectors <= 65535 * 16 * 63 {
            of_track = 17;
            let tracks = sectors / of_track;
            heads = tracks.div_ceil(1024).max(4);
            if tracks >= heads * 1024 || heads > 16 {
                (heads, of_track) = (16, 31);
            }
            if sectors / of_track >= heads * 1024 {
                (heads, of_track) = (16, 63);
            }
        }
        Geometry {
            cylinders: (sectors / of_track / heads) as u16,
            heads: heads as u8,
            sectors_of_track: of_track as u8,
        }
    }

    fn sectors(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors_of_track)
    }
}

fn footer(length: u64, geometry: Geometry, is_fixed: bool, is_exact: bool) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut footer = FOOTER_COOKIE.to_vec();
    // Features: the reserved bit, which is always set.
    footer.extend(2_u32.to_be_bytes());
    footer.extend(VERSION.to_be_bytes());
    footer.extend(if is_fixed { u64::MAX } else { FOOTER }.to_be_bytes());
    footer.extend((now.saturating_sub(EPOCH) as u32).to_be_bytes());
    // The creator tells other programs which of the two lengths counts: QEMU takes the exact one of its own "qem2".
    footer.extend(if is_exact { b"qem2" } else { b"qemu" });
    footer.extend(0x0005_0003_u32.to_be_bytes());
    footer.extend(b"Wi2k");
    footer.extend(length.to_be_bytes());
    footer.extend(length.to_be_bytes());
    footer.extend(geometry.cylinders.to_be_bytes());
    footer.extend([geometry.heads, geometry.sectors_of_track]);
    footer.extend(if is_fixed { 2_u32 } else { 3 }.to_be_bytes());
    footer.extend([0; 4]);
    footer.extend(uuid::Uuid::new_v4().as_bytes());
    footer.resize(FOOTER as usize, 0);
    seal(&mut footer, FOOTER_CHECKSUM_AT);
    footer
}

/// The checksum of a footer or header, as if there were zeros where it stands.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = bytes.iter().enumerate().filter(|(index, _)| !(at..at + 4).contains(index));
    !sum.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

/// Sets the checksum.
fn seal(bytes: &mut [u8], at: usize) {
    let sum = checksum(bytes, at);
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

fn check_seal(bytes: &[u8], at: usize, field: &'static str) -> Result<(), Error> {
    let (is, must) = (Endian::Big.u32_at(bytes, at).unwrap_or_default(), checksum(bytes, at));
    if is == must {
        Ok(())
    } else {
        Err(FieldError::value(field, is, format!("the sum of the bytes is {must}")).into())
    }
}

/// Footer of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Footer {
    subformat: Subformat,
    /// Where the header of a dynamic disk is.
    header: u64,
    /// Length of the disk, bytes.
    length: u64,
}

impl Footer {
    fn read(bytes: &[u8]) -> Result<Footer, Error> {
        check_seal(bytes, FOOTER_CHECKSUM_AT, "checksum of the footer")?;
        let mut fields = Fields::new("the VHD footer", bytes);
        fields.bytes("cookie and features", 12)?;
        let version = fields.u32("file_format_version")?;
        if version >> 16 != 1 {
            return Err(FieldError::value("file_format_version", version, "65536 (1.0) is known").into());
        }
        let header = fields.u64("data_offset")?;
        fields.u32("time_stamp")?;
        let creator = fields.bytes("creator_application", 4)?;
        fields.bytes("creator_version, creator_host_os and original_size", 16)?;
        let current_size = fields.u64("current_size")?;
        let geometry = Geometry {
            cylinders: fields.u16("cylinders")?,
            heads: fields.u8("heads")?,
            sectors_of_track: fields.u8("sectors per track")?,
        };
        let subformat = match fields.u32("disk_type")? {
            2 => Subformat::Fixed,
            3 => Subformat::Dynamic,
            4 => return Err(Error::Unsupported("differencing VHD images are not built".into())),
            other => return Err(FieldError::value("disk_type", other, "2 (fixed) and 3 (dynamic) are known").into()),
        };
        // Virtual PC and QEMU mean the geometry by the length of a disk, others current_size.
        let means_geometry = matches!(creator, b"vpc " | b"qemu") && geometry.sectors() != MOST_GEOMETRY;
        let sectors = if means_geometry { geometry.sectors() } else { current_size / SECTOR };
        if sectors > MOST_SECTORS {
            let valid = format!("a VHD image has at most {}", MOST_SECTORS * SECTOR);
            return Err(FieldError::value("current_size", current_size, valid).into());
        }
        Ok(Footer { subformat, header, length: sectors * SECTOR })
    }
}

/// The image in a file.
pub async fn open(file: Arc<Node>) -> Result<Box<dyn Driver>, Error> {
    let end = file.length();
    let no_image = || Error::Unsupported("Image not in VHD format".into());
    let last = end.checked_sub(FOOTER).ok_or_else(no_image)?;
    let first = file.read_vec(0, FOOTER as usize).await?;
    let behind = file.read_vec(last, FOOTER as usize).await?;
    let ends_with_footer = behind.starts_with(FOOTER_COOKIE);
    let bytes = if probe(&first) {
        first
    } else if ends_with_footer {
        behind
    } else {
        return Err(no_image());
    };
    let footer = Footer::read(&bytes)?;
    match footer.subformat {
        Subformat::Fixed => {
            if footer.length > last {
                let valid = format!("the file has room for {last}");
                return Err(FieldError::value("current_size", footer.length, valid).into());
            }
            Ok(Box::new(Fixed { file, length: footer.length }))
        }
        Subformat::Dynamic => {
            let free_from = if ends_with_footer { last } else { end.next_multiple_of(SECTOR) };
            Ok(Box::new(open_dynamic(file, footer, bytes, free_from).await?))
        }
    }
}

async fn open_dynamic(
    file: Arc<Node>,
    footer: Footer,
    footer_bytes: Vec<u8>,
    free_from: u64,
) -> Result<Sparse<Dynamic>, Error> {
    if footer.header < FOOTER || footer.header.checked_add(HEADER).is_none_or(|end| end > file.length()) {
        let valid =
            format!("{HEADER} bytes must be there behind the footer's copy, and the file has {}", file.length());
        return Err(FieldError::value("data_offset", footer.header, valid).into());
    }
    let bytes = file.read_vec(footer.header, HEADER as usize).await?;
    if !bytes.starts_with(HEADER_COOKIE) {
        return Err(Error::Corrupt("the header of a dynamic VHD image begins with \"cxsparse\"".into()));
    }
    check_seal(&bytes, HEADER_CHECKSUM_AT, "checksum of the dynamic disk's header")?;
    let mut fields = Fields::new("the dynamic disk's header", &bytes);
    fields.bytes("cookie and data_offset", 16)?;
    let table_offset = fields.u64("table_offset")?;
    let version = fields.u32("header_version")?;
    if version >> 16 != 1 {
        return Err(FieldError::value("header_version", version, "65536 (1.0) is known").into());
    }
    let entries = fields.u32("max_table_entries")?;
    let block_size = fields.u32("block_size")?;
    if !block_size.is_power_of_two() || !(SECTOR as u32..=MOST_BLOCK).contains(&block_size) {
        let valid = format!("it must be a power of two between {SECTOR} and {MOST_BLOCK}");
        return Err(FieldError::value("block_size", block_size, valid).into());
    }
    let block = u64::from(block_size);
    let table = Table { start: table_offset, entries: entries.into(), width: 4, endian: Endian::Big };
    let blocks = footer.length.div_ceil(block);
    table.check("table_offset", FOOTER, blocks, &file)?;
    let table_end = table_offset + table.entries * 4;
    if table_offset < footer.header + HEADER && footer.header < table_end {
        let valid = format!("the header from {} on must not be in the table", footer.header);
        return Err(FieldError::value("table_offset", table_offset, valid).into());
    }
    let bitmap = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    let data = table_end.max(footer.header + HEADER);
    let mut end = data.max(free_from);
    if !file.is_read_only() {
        let (mut places, length) = (Places::default(), file.length());
        let each = |_: u64, entry: u64| {
            if entry == ABSENT {
                return Ok(());
            }
            let start = entry * SECTOR;
            check_offset(start, "the place of a block", FOOTER, length)?;
            for (first, last) in [(table_offset, table_end), (footer.header, footer.header + HEADER)] {
                if start < last && first < start + bitmap + block {
                    let valid = format!("the bytes from {first} to {last} are the table or the header");
                    return Err(FieldError::value("the place of a block", start, valid).into());
                }
            }
            places.add(entry as u32)
        };
        table.scan(&file, blocks, each).await?;
        end = end.max(places.check((bitmap + block) / SECTOR)? * SECTOR);
    }
    let layout = Dynamic {
        pages: Pages::new(file.clone()),
        file: file.clone(),
        table,
        block,
        bitmap,
        length: footer.length,
        footer: footer_bytes,
        end: tokio::sync::Mutex::new(End { offset: end.next_multiple_of(SECTOR), lacks_footer: false }),
        marked: Mutex::default(),
    };
    Ok(Sparse::new(file, None, layout))
}

struct Dynamic {
    pages: Pages,
    file: Arc<Node>,
    table: Table,
    /// Bytes of a block, without its bitmap.
    block: u64,
    /// Bytes of a bitmap.
    bitmap: u64,
    length: u64,
    footer: Vec<u8>,
    /// Held while a block's bitmap or the footer is written there.
    end: tokio::sync::Mutex<End>,
    /// Blocks whose bitmap says that all sectors have data.
    // Lock order: alone.
    marked: Mutex<HashSet<u64>>,
}

/// The end of the image.
struct End {
    /// Where the next block goes, and the footer until then.
    offset: u64,
    /// A block has taken the footer's place.
    lacks_footer: bool,
}

impl Dynamic {
    /// Writes the footer, if it is not there. Its copy at the beginning stands in for it until then.
    async fn write_footer(&self) -> Result<(), Error> {
        let mut end = self.end.lock().await;
        if end.lacks_footer {
            self.file.write_bytes(end.offset, &self.footer).await?;
            end.lacks_footer = false;
        }
        Ok(())
    }
}

#[async_trait]
impl Layout for Dynamic {
    fn name(&self) -> &'static str {
        "vpc"
    }
    fn length(&self) -> u64 {
        self.length
    }
    fn block_size(&self) -> u64 {
        self.block
    }
    fn pages(&self) -> &Pages {
        &self.pages
    }

    async fn find(&self, block: u64) -> Result<Place, Error> {
        match self.table.get(&self.pages, block).await? {
            ABSENT => Ok(Place::Absent),
            entry => Place::at(entry * SECTOR + self.bitmap, "the place of a block's data", FOOTER, &self.file),
        }
    }

    async fn reserve(&self) -> Result<u64, Error> {
        let mut end = self.end.lock().await;
        if end.offset / SECTOR >= ABSENT {
            return Err(Error::Unsupported("the image's file is as long as a VHD image can be".into()));
        }
        let start = end.offset;
        *end = End { offset: start + self.bitmap + self.block, lacks_footer: true };
        self.file.write_bytes(start, &vec![0xff; self.bitmap as usize]).await?;
        Ok(start + self.bitmap)
    }

    async fn set(&self, block: u64, place: Place) -> Result<(), Error> {
        let Place::At(offset) = place else { return Err(Error::Unsupported("a VHD block has one place".into())) };
        self.marked.lock().insert(block);
        self.table.set(&self.pages, block, (offset - self.bitmap) / SECTOR, Level::Leaf).await
    }

    async fn before_write(&self, block: u64) -> Result<(), Error> {
        if self.marked.lock().contains(&block) {
            return Ok(());
        }
        let Place::At(data) = self.find(block).await? else { return Ok(()) };
        let at = data - self.bitmap;
        if self.file.read_vec(at, self.bitmap as usize).await?.iter().any(|byte| *byte != 0xff) {
            self.file.write_bytes(at, &vec![0xff; self.bitmap as usize]).await?;
        }
        self.marked.lock().insert(block);
        Ok(())
    }

    async fn store(&self, file: &Node, pages: &[ChangedPage]) -> Result<(), Error> {
        self.write_footer().await?;
        store_in_order(file, pages).await
    }

    async fn close(&self) -> Result<(), Error> {
        // It may have been lost to a block that was never written to its end.
        self.write_footer().await?;
        self.file.flush().await
    }
}

/// A fixed disk: its bytes, and a footer.
struct Fixed {
    file: Arc<Node>,
    length: u64,
}

impl Fixed {
    fn check(&self, offset: u64, length: u64) -> Result<(), Error> {
        // Behind the disk is the footer.
        match offset.checked_add(length) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(Error::OutOfBounds { offset, length, disk: self.length }),
        }
    }
}

#[async_trait]
impl Driver for Fixed {
    fn name(&self) -> &'static str {
        "vpc"
    }
    fn length(&self) -> u64 {
        self.length
    }
    fn is_read_only(&self) -> bool {
        self.file.is_read_only()
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let there = self.length.saturating_sub(offset).min(to.len() as u64) as usize;
        to.slice(there, to.len() - there).fill(0);
        self.file.read(offset, to.slice(0, there)).await
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.check(offset, from.len() as u64)?;
        self.file.write(offset, from).await
    }
    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        self.check(offset, length)?;
        self.file.write_zeroes(offset, length, flags).await.map(|()| Zeroed::Done)
    }
    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.check(offset, length)?;
        self.file.discard(offset, length).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.file.flush().await
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let status = self.file.status(offset, length).await?;
        Ok(Status { file_offset: Some(offset), ..status })
    }
    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        vec![(Role::File, self.file.clone())]
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
