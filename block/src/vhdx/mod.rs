//! The `vhdx` format: Microsoft's [MS-VHDX], dynamic and fixed disks.
//!
//! The first MiB has headers and the places of two regions: the metadata, and the table with a number for each block. A log has
//! changes of those; what is in it when an image is opened is done again. Nothing is written to it here: a block's number is written
//! once the block is on stable storage, and it lies in one sector, so that there is no state in between that must be made whole.

mod create;
mod header;
mod log;
mod metadata;

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::fields::Endian;
use crate::sparse::{Layout, Level, Pages, Place, Sparse, Table, Used, check_offset};
use crate::{Driver, Error, Node};

pub use create::{CreateOptions, Subformat, create};
use header::{Header, Regions};
pub(crate) use metadata::MOST_BLOCK;
use metadata::Metadata;

const MIB: u64 = 1 << 20;

/// Which bits of an entry are the state; those from 20 on are the offset in MiB.
const STATE: u64 = 7;
const NOT_PRESENT: u64 = 0;
const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;
const FULLY_PRESENT: u64 = 6;

/// Whether the first bytes of a file are those of a VHDX image.
pub fn probe(start: &[u8]) -> bool {
    start.starts_with(header::IDENTIFIER)
}

/// The image in a file. A log with changes is done again where the file is writable; elsewhere it is an error.
pub async fn open(file: Arc<Node>) -> Result<Box<dyn Driver>, Error> {
    if !probe(&file.read_vec(0, header::IDENTIFIER.len()).await?) {
        return Err(Error::Unsupported("Image not in VHDX format".into()));
    }
    let mut header = Header::read(&file).await?;
    if !header.log.is_nil() {
        if file.is_read_only() {
            let text = "the image is opened read-only, but contains a log that needs to be replayed";
            return Err(Error::Unsupported(text.into()));
        }
        header = log::replay(&file, header).await?;
    }
    let regions = Regions::read(&file).await?;
    let metadata = Metadata::read(&file, regions.metadata).await?;
    let table = Table {
        start: regions.bat.offset,
        entries: u64::from(regions.bat.length) / 8,
        width: 8,
        endian: Endian::Little,
    };
    table.check("FileOffset of the BAT", MIB, metadata.entries(), &file)?;
    if !file.is_read_only() {
        check_places(&file, &header, &regions, &metadata, &table).await?;
    }
    let layout = Vhdx {
        pages: Pages::new(file.clone()),
        end: Mutex::new(file.length()),
        file: file.clone(),
        metadata,
        table,
        header,
        changed_header: OnceCell::new(),
    };
    Ok(Box::new(Sparse::new(file, None, layout)))
}

/// Checks that no two parts of the file have a MiB in common.
async fn check_places(
    file: &Node,
    header: &Header,
    regions: &Regions,
    metadata: &Metadata,
    table: &Table,
) -> Result<(), Error> {
    let mut used = Used::default();
    let mut mark = |offset: u64, length: u64, index: u64| {
        (offset / MIB..(offset + length).div_ceil(MIB)).try_for_each(|place| used.mark(place, index))
    };
    mark(0, MIB, 0)?;
    mark(header.log_offset, header.log_length.into(), 0)?;
    for region in [regions.bat, regions.metadata] {
        mark(region.offset, region.length.into(), 0)?;
    }
    let (end, ratio) = (file.length(), metadata.chunk_ratio());
    let each = |index: u64, entry: u64| {
        let is_bitmap = index % (ratio + 1) == ratio;
        if is_bitmap || entry & STATE != FULLY_PRESENT {
            return Ok(());
        }
        let offset = entry & !(MIB - 1);
        check_offset(offset, "the offset of a block", MIB, end)?;
        mark(offset, metadata.block, index)
    };
    table.scan(file, metadata.entries(), each).await
}

struct Vhdx {
    pages: Pages,
    file: Arc<Node>,
    metadata: Metadata,
    table: Table,
    /// As it was when the image was opened.
    header: Header,
    changed_header: OnceCell<()>,
    /// Where the file ends once everything is written that has got its place.
    // Lock order: alone.
    end: Mutex<u64>,
}

#[async_trait]
impl Layout for Vhdx {
    fn name(&self) -> &'static str {
        "vhdx"
    }
    fn length(&self) -> u64 {
        self.metadata.size
    }
    fn block_size(&self) -> u64 {
        self.metadata.block
    }
    fn pages(&self) -> &Pages {
        &self.pages
    }

    async fn find(&self, block: u64) -> Result<Place, Error> {
        let entry = self.table.get(&self.pages, self.metadata.index(block)).await?;
        match entry & STATE {
            NOT_PRESENT | UNDEFINED | UNMAPPED => Ok(Place::Absent),
            ZERO => Ok(Place::Zero),
            FULLY_PRESENT => Place::at(entry & !(MIB - 1), "the offset of a block", MIB, &self.file),
            other => {
                let valid = "0 to 3 and 6 are states of blocks of an image without a parent";
                Err(crate::FieldError::value("the state of a block", other, valid).into())
            }
        }
    }

    async fn reserve(&self) -> Result<u64, Error> {
        let mut end = self.end.lock();
        let start = end.next_multiple_of(MIB);
        *end = start + self.metadata.block;
        Ok(start)
    }

    async fn set(&self, block: u64, place: Place) -> Result<(), Error> {
        let entry = match place {
            Place::At(offset) => offset | FULLY_PRESENT,
            Place::Zero => ZERO,
            Place::Absent | Place::Packed(..) => NOT_PRESENT,
        };
        self.table.set(&self.pages, self.metadata.index(block), entry, Level::Leaf).await
    }

    async fn before_change(&self) -> Result<(), Error> {
        let change = async || self.header.changed().store(&self.file).await.map(|_| ());
        self.changed_header.get_or_try_init(change).await.map(|_| ())
    }
}
