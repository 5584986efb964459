//! The `vdi` format, of VirtualBox: version 1.1, in blocks of 1 MiB, dynamic and static.
//!
//! The header is followed by a table with a number for each block: its place in the data area, in blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use crate::fields::{Endian, Fields};
use crate::sparse::{Layout, Level, Page, Pages, Place, Sparse, Table, Used, check_offset};
use crate::{Driver, Error, FieldError, Node, Preallocation};

/// The number that stands behind the text at the beginning.
const SIGNATURE: u32 = 0xbeda_107f;
/// Where it stands.
const SIGNATURE_AT: usize = 0x40;
const VERSION: u32 = 0x0001_0001;
/// The whole first sector, of which the header is part.
const HEADER: usize = 512;
/// Where the number of blocks that are in the file stands.
const ALLOCATED_AT: usize = 0x184;
/// The only size of blocks that VirtualBox makes, bytes.
const BLOCK: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// Most blocks of a disk: QEMU takes no longer table.
const MOST_BLOCKS: u64 = 0x1fff_ff80;

/// An entry of the table: the block has no place.
const ABSENT: u64 = 0xffff_ffff;
/// An entry of the table: the block is zeros.
const DISCARDED: u64 = 0xffff_fffe;

const DYNAMIC: u32 = 1;
const STATIC: u32 = 2;

/// Whether the first bytes of a file are those of a VDI image.
pub fn probe(start: &[u8]) -> bool {
    Endian::Little.u32_at(start, SIGNATURE_AT) == Some(SIGNATURE)
}

/// How an image is made.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Length of the disk, bytes; it is rounded up to whole sectors of 512 bytes.
    pub size: u64,
    /// All blocks have a place from the beginning (`static=on`).
    pub is_static: bool,
}

/// Makes an image of a disk of zeros.
pub async fn create(file: &Node, options: &CreateOptions) -> Result<(), Error> {
    let size = options.size.checked_next_multiple_of(SECTOR).filter(|size| size.div_ceil(BLOCK) <= MOST_BLOCKS);
    let Some(size) = size else {
        return Err(Error::Unsupported(format!(
            "Unsupported VDI image size (size is {:#x}, max supported is {:#x})",
            options.size,
            MOST_BLOCKS * BLOCK
        )));
    };
    let blocks = size.div_ceil(BLOCK);
    let table_length = (blocks * 4).next_multiple_of(SECTOR);
    let data = HEADER as u64 + table_length;
    let mut header = vec![0; HEADER];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"<<< Brolga Virtual Disk Image >>>\n");
    for (at, number) in [
        (SIGNATURE_AT, SIGNATURE),
        (0x44, VERSION),
        (0x48, 0x180),
        (0x4c, if options.is_static { STATIC } else { DYNAMIC }),
        (0x154, HEADER as u32),
        (0x158, data as u32),
        (0x168, SECTOR as u32),
        (0x178, BLOCK as u32),
        (0x180, blocks as u32),
        (ALLOCATED_AT, if options.is_static { blocks as u32 } else { 0 }),
    ] {
        put(at, &number.to_le_bytes());
    }
    put(0x170, &size.to_le_bytes());
    // Of the image and of its last snapshot.
    put(0x188, uuid::Uuid::new_v4().as_bytes());
    put(0x198, uuid::Uuid::new_v4().as_bytes());
    file.truncate(0, Preallocation::Off).await?;
    let mut first = 0;
    while first < blocks {
        let count = (blocks - first).min(1 << 18);
        let entry = |index: u64| if options.is_static { index as u32 } else { ABSENT as u32 };
        let entries: Vec<u8> = (first..first + count).flat_map(|index| entry(index).to_le_bytes()).collect();
        file.write_bytes(HEADER as u64 + first * 4, &entries).await?;
        first += count;
    }
    let length = if options.is_static { data + blocks * BLOCK } else { data };
    if file.length() < length {
        file.truncate(length, Preallocation::Off).await?;
    }
    file.write_bytes(0, &header).await?;
    file.flush().await
}

/// The image in a file.
pub async fn open(file: Arc<Node>) -> Result<Box<dyn Driver>, Error> {
    let bytes = file.read_vec(0, (HEADER as u64).min(file.length()) as usize).await?;
    if !probe(&bytes) {
        return Err(Error::Unsupported("Image not in VDI format".into()));
    }
    let header = Header::read(&bytes)?;
    let blocks = header.disk_size.div_ceil(BLOCK);
    let table = Table { start: header.table.into(), entries: header.blocks.into(), width: 4, endian: Endian::Little };
    table.check("offset_bmap", HEADER as u64, blocks, &file)?;
    let data = u64::from(header.data);
    if data < table.start + table.entries * 4 {
        let valid = format!("the table up to {} must end before", table.start + table.entries * 4);
        return Err(FieldError::value("offset_data", data, valid).into());
    }
    let mut used = Used::default();
    if !file.is_read_only() {
        let end = file.length();
        let each = |block: u64, entry: u64| match entry {
            ABSENT | DISCARDED => Ok(()),
            _ => check_offset(data + entry * BLOCK, "the place of a block", data, end)
                .and_then(|()| used.mark(entry, block)),
        };
        table.scan(&file, blocks, each).await?;
    }
    let layout = Vdi {
        pages: Pages::new(file.clone()),
        file: file.clone(),
        table,
        data,
        length: header.disk_size,
        next: used.end().into(),
    };
    Ok(Box::new(Sparse::new(file, None, layout)))
}

struct Header {
    table: u32,
    data: u32,
    disk_size: u64,
    blocks: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header, Error> {
        let mut fields = Fields::little("the VDI header", bytes);
        fields.bytes("text", SIGNATURE_AT + 4)?;
        let version = fields.u32("version")?;
        if version != VERSION {
            return Err(FieldError::value("version", version, format!("{VERSION} (1.1) is known")).into());
        }
        fields.u32("header_size")?;
        let kind = fields.u32("image_type")?;
        if !matches!(kind, DYNAMIC | STATIC) {
            return Err(FieldError::value("image_type", kind, "1 (dynamic) and 2 (static) are known").into());
        }
        fields.bytes("description", 4 + 256)?;
        let (table, data) = (fields.u32("offset_bmap")?, fields.u32("offset_data")?);
        for (field, offset) in [("offset_bmap", table), ("offset_data", data)] {
            if !offset.is_multiple_of(SECTOR as u32) {
                return Err(FieldError::value(field, offset, "it must be a multiple of 512").into());
            }
        }
        fields.bytes("geometry", 12)?;
        let sector_size = fields.u32("sector_size")?;
        if u64::from(sector_size) != SECTOR {
            return Err(FieldError::value("sector_size", sector_size, "it must be 512").into());
        }
        fields.u32("unused1")?;
        let disk_size = fields.u64("disk_size")?;
        let block_size = fields.u32("block_size")?;
        if u64::from(block_size) != BLOCK {
            return Err(FieldError::value("block_size", block_size, format!("it must be {BLOCK}")).into());
        }
        let extra = fields.u32("block_extra")?;
        if extra != 0 {
            return Err(FieldError::value("block_extra", extra, "it must be 0").into());
        }
        let blocks = fields.u32("blocks_in_image")?;
        if u64::from(blocks) > MOST_BLOCKS {
            return Err(
                FieldError::value("blocks_in_image", blocks, format!("it must be at most {MOST_BLOCKS}")).into()
            );
        }
        if disk_size > u64::from(blocks) * BLOCK {
            let valid = format!("{blocks} blocks have at most {} bytes", u64::from(blocks) * BLOCK);
            return Err(FieldError::value("disk_size", disk_size, valid).into());
        }
        fields.bytes("blocks_allocated and the UUIDs", 4 + 32)?;
        if fields.bytes("uuid_link", 32)?.iter().any(|byte| *byte != 0) {
            return Err(Error::Unsupported(
                "the image is the difference to another (uuid_link or uuid_parent is set)".into(),
            ));
        }
        Ok(Header { table, data, disk_size: disk_size.next_multiple_of(SECTOR), blocks })
    }
}

struct Vdi {
    pages: Pages,
    file: Arc<Node>,
    table: Table,
    /// Where the data area begins.
    data: u64,
    length: u64,
    /// Place of the next new block, in blocks of the data area.
    next: AtomicU64,
}

#[async_trait]
impl Layout for Vdi {
    fn name(&self) -> &'static str {
        "vdi"
    }
    fn length(&self) -> u64 {
        self.length
    }
    fn block_size(&self) -> u64 {
        BLOCK
    }
    fn pages(&self) -> &Pages {
        &self.pages
    }

    async fn find(&self, block: u64) -> Result<Place, Error> {
        match self.table.get(&self.pages, block).await? {
            ABSENT => Ok(Place::Absent),
            DISCARDED => Ok(Place::Zero),
            entry => Place::at(self.data + entry * BLOCK, "the place of a block", self.data, &self.file),
        }
    }

    async fn reserve(&self) -> Result<u64, Error> {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        if place >= DISCARDED {
            return Err(Error::Unsupported("the image has as many blocks as a VDI image can have".into()));
        }
        Ok(self.data + place * BLOCK)
    }

    async fn set(&self, block: u64, place: Place) -> Result<(), Error> {
        let Place::At(offset) = place else { return Err(Error::Unsupported("a VDI block has one place".into())) };
        self.table.set(&self.pages, block, (offset - self.data) / BLOCK, Level::Leaf).await?;
        // What other programs take as the place of their next block.
        let note = |bytes: &mut [u8]| {
            let next = (self.next.load(Ordering::Relaxed) as u32).to_le_bytes();
            bytes[ALLOCATED_AT..ALLOCATED_AT + 4].copy_from_slice(&next);
        };
        self.pages.change(Page { offset: 0, length: HEADER }, Level::Root, note).await
    }
}
