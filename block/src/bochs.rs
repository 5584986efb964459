//! The `bochs` format, growing images of Bochs: read-only.
//!
//! The header is followed by a catalog with a number for each extent: its place behind the catalog. An extent begins with a bitmap of
//! its sectors that have data; the others are zeros.

use std::sync::Arc;

use async_trait::async_trait;

use crate::fields::{Endian, Fields};
use crate::sparse::{Layout, Page, Pages, Place, Sparse, Table};
use crate::{Driver, Error, FieldError, Node};

const MAGIC: &[u8] = b"Bochs Virtual HD Image\0";
const KIND: &[u8] = b"Redolog\0";
const SUBKIND: &[u8] = b"Growing\0";
const VERSION: u32 = 0x0002_0000;
const OLD_VERSION: u32 = 0x0001_0000;
const HEADER: u64 = 512;
const SECTOR: u64 = 512;
/// An entry of the catalog: the extent has no place.
const ABSENT: u64 = 0xffff_ffff;
/// Most entries of the catalog.
const MOST_EXTENTS: u32 = 1 << 20;
/// Most bytes of an extent.
const MOST_EXTENT: u32 = 8 << 20;

/// Whether the first bytes of a file are those of a growing Bochs image.
pub fn probe(start: &[u8]) -> bool {
    let has = |at: usize, text: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(text));
    let version = Endian::Little.u32_at(start, 64);
    has(0, MAGIC) && has(32, KIND) && has(48, SUBKIND) && matches!(version, Some(VERSION | OLD_VERSION))
}

/// The image in a file.
pub async fn open(file: Arc<Node>) -> Result<Box<dyn Driver>, Error> {
    let bytes = file.read_vec(0, HEADER.min(file.length()) as usize).await?;
    if !probe(&bytes) {
        return Err(Error::Unsupported("Image not in Bochs format".into()));
    }
    let mut fields = Fields::little("the Bochs header", &bytes);
    fields.bytes("magic, type and subtype", 64)?;
    let version = fields.u32("version")?;
    let header = fields.u32("header")?;
    if u64::from(header) < HEADER {
        return Err(FieldError::value("header", header, format!("it must be at least {HEADER}")).into());
    }
    let extents = fields.u32("catalog")?;
    if extents > MOST_EXTENTS {
        return Err(FieldError::value("catalog", extents, format!("it must be at most {MOST_EXTENTS}")).into());
    }
    let bitmap = fields.u32("bitmap")?;
    let extent = fields.u32("extent")?;
    if !extent.is_power_of_two() || !(SECTOR as u32..=MOST_EXTENT).contains(&extent) {
        let valid = format!("it must be a power of two between {SECTOR} and {MOST_EXTENT}");
        return Err(FieldError::value("extent", extent, valid).into());
    }
    let needed = (extent / SECTOR as u32).div_ceil(8);
    if bitmap < needed || bitmap > MOST_EXTENT {
        let valid = format!("the sectors of an extent need {needed} bytes; at most {MOST_EXTENT} are possible");
        return Err(FieldError::value("bitmap", bitmap, valid).into());
    }
    if version == VERSION {
        fields.u32("timestamp")?;
    }
    let disk = fields.u64("disk")?;
    let most = u64::from(extents) * u64::from(extent);
    if disk > most {
        return Err(FieldError::value("disk", disk, format!("{extents} extents have {most} bytes")).into());
    }
    let catalog = Table { start: header.into(), entries: extents.into(), width: 4, endian: Endian::Little };
    catalog.check("header", HEADER, 0, &file)?;
    let layout = Bochs {
        pages: Pages::new(file.clone()),
        file: file.clone(),
        catalog,
        data: u64::from(header) + u64::from(extents) * 4,
        bitmap: u64::from(bitmap).next_multiple_of(SECTOR),
        extent: extent.into(),
        length: disk / SECTOR * SECTOR,
    };
    Ok(Box::new(Sparse::new(file, None, layout)))
}

struct Bochs {
    pages: Pages,
    file: Arc<Node>,
    catalog: Table,
    /// Where the first extent is in the file.
    data: u64,
    /// Bytes that the bitmap of an extent takes.
    bitmap: u64,
    /// Bytes of an extent, without its bitmap.
    extent: u64,
    length: u64,
}

#[async_trait]
impl Layout for Bochs {
    fn name(&self) -> &'static str {
        "bochs"
    }
    fn length(&self) -> u64 {
        self.length
    }
    fn block_size(&self) -> u64 {
        SECTOR
    }
    fn pages(&self) -> &Pages {
        &self.pages
    }
    fn is_read_only(&self) -> bool {
        true
    }

    async fn find(&self, block: u64) -> Result<Place, Error> {
        let of_extent = self.extent / SECTOR;
        let (index, sector) = (block / of_extent, block % of_extent);
        let entry = self.catalog.get(&self.pages, index).await?;
        if entry == ABSENT {
            return Ok(Place::Absent);
        }
        let bitmap = self.data + entry * (self.bitmap + self.extent);
        let Place::At(bitmap) = Place::at(bitmap, "the offset of an extent", self.data, &self.file)? else {
            return Ok(Place::Absent);
        };
        let page = Page { offset: bitmap, length: of_extent.div_ceil(8) as usize };
        let bit = |bytes: &[u8]| bytes.get((sector / 8) as usize).is_some_and(|byte| byte >> (sector % 8) & 1 != 0);
        if !self.pages.read(page, bit).await? {
            return Ok(Place::Absent);
        }
        let offset = bitmap + self.bitmap + sector * SECTOR;
        Place::at(offset, "the offset of a sector", self.data, &self.file)
    }
}
