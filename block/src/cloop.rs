//! The `cloop` format, compressed images of Linux's loop device, version 2.0: read-only.
//!
//! A script is followed by a table with the offset of each block, which is compressed.

use std::sync::Arc;

use async_trait::async_trait;

use crate::deflate::{Wrapper, inflate};
use crate::fields::{Endian, Fields};
use crate::sparse::{Layout, Pages, Place, Sparse, Table};
use crate::{Driver, Error, FieldError, Node};

/// What an image begins with.
const SCRIPT: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
/// Where the fields are, behind the script.
const FIELDS_AT: u64 = 128;
const TABLE_AT: u64 = FIELDS_AT + 8;
/// Most bytes of a block.
const MOST_BLOCK: u32 = 64 << 20;
/// Most blocks of a disk.
const MOST_BLOCKS: u32 = 1 << 26;

/// Whether the first bytes of a file are those of a compressed loop image.
pub fn probe(start: &[u8]) -> bool {
    start.starts_with(SCRIPT)
}

/// The image in a file.
pub async fn open(file: Arc<Node>) -> Result<Box<dyn Driver>, Error> {
    let bytes = file.read_vec(0, TABLE_AT.min(file.length()) as usize).await?;
    // QEMU, told the format, takes what comes without the script, too.
    let mut fields = Fields::new("the cloop header", &bytes);
    fields.bytes("script", FIELDS_AT as usize)?;
    let block = fields.u32("block_size")?;
    if block == 0 || !block.is_multiple_of(512) || block > MOST_BLOCK {
        let valid = format!("it must be a multiple of 512, not 0 and at most {MOST_BLOCK}");
        return Err(FieldError::value("block_size", block, valid).into());
    }
    let blocks = fields.u32("num_blocks")?;
    if blocks > MOST_BLOCKS {
        return Err(FieldError::value("num_blocks", blocks, format!("it must be at most {MOST_BLOCKS}")).into());
    }
    let table = Table { start: TABLE_AT, entries: u64::from(blocks) + 1, width: 8, endian: Endian::Big };
    table.check("the table's offset", TABLE_AT, table.entries, &file)?;
    let layout = Cloop { pages: Pages::new(file.clone()), file: file.clone(), table, block: block.into() };
    Ok(Box::new(Sparse::new(file, None, layout)))
}

struct Cloop {
    pages: Pages,
    file: Arc<Node>,
    /// Offsets of the blocks, and of the end of the last one.
    table: Table,
    block: u64,
}

#[async_trait]
impl Layout for Cloop {
    fn name(&self) -> &'static str {
        "cloop"
    }
    fn length(&self) -> u64 {
        (self.table.entries - 1) * self.block
    }
    fn block_size(&self) -> u64 {
        self.block
    }
    fn pages(&self) -> &Pages {
        &self.pages
    }
    fn is_read_only(&self) -> bool {
        true
    }

    async fn find(&self, block: u64) -> Result<Place, Error> {
        let start = self.table.get(&self.pages, block).await?;
        let end = self.table.get(&self.pages, block + 1).await?;
        let table_end = TABLE_AT + self.table.entries * 8;
        if start < table_end
            || end > self.file.length()
            || !(start..=start.saturating_add(self.block * 2)).contains(&end)
        {
            let valid = format!("its end {end} is behind it, in the file, and not more than two blocks away");
            return Err(FieldError::value("the offset of a block", start, valid).into());
        }
        Ok(Place::Packed(start, (end - start) as usize))
    }

    async fn unpack(&self, _block: u64, packed: Vec<u8>) -> Result<Vec<u8>, Error> {
        inflate(packed, self.block as usize, Wrapper::Zlib).await
    }
}
