//! Makes images.

use super::header::{Header, IDENTIFIER, Region, Regions};
use super::metadata::{MOST_SIZE, Metadata, check_block_size};
use super::{FULLY_PRESENT, MIB, NOT_PRESENT, ZERO};
use crate::{Error, Node, Preallocation};

/// Bytes of a sector, as the guest sees it.
const SECTOR: u64 = 512;
/// Most bytes of the log: its length is a number of 32 bits.
const MOST_LOG: u64 = 1 << 32;

/// What kind of image it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subformat {
    /// Blocks get their place when they are written.
    #[default]
    Dynamic,
    /// All have one from the beginning.
    Fixed,
}

/// How an image is made.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Length of the disk, bytes; it is rounded up to whole sectors of 512 bytes.
    pub size: u64,
    /// Its kind.
    pub subformat: Subformat,
    /// Bytes of a block, a power of two from 1 MiB to 256 MiB; 0: what fits the size.
    pub block_size: u64,
    /// Bytes of the log, a multiple of 1 MiB.
    pub log_size: u64,
    /// Blocks are said to be zeros, and not to be nowhere.
    pub block_state_zero: bool,
}

impl Default for CreateOptions {
    fn default() -> CreateOptions {
        CreateOptions { size: 0, subformat: Subformat::Dynamic, block_size: 0, log_size: MIB, block_state_zero: true }
    }
}

/// Makes an image of a disk of zeros.
pub async fn create(file: &Node, options: &CreateOptions) -> Result<(), Error> {
    let size = options.size.checked_next_multiple_of(SECTOR).filter(|size| *size <= MOST_SIZE);
    let size = size.ok_or_else(|| Error::Unsupported("Image size too large; max of 64TB".into()))?;
    let block = match options.block_size {
        0 if size > 32 << 40 => 64 * MIB,
        0 if size > 100 << 30 => 32 * MIB,
        0 if size > 1 << 30 => 16 * MIB,
        0 => 8 * MIB,
        chosen => chosen,
    };
    let log = options.log_size;
    if log >= MOST_LOG {
        return Err(Error::Unsupported("Log size must be smaller than 4 GB".into()));
    }
    if log == 0 || !log.is_multiple_of(MIB) {
        return Err(Error::Unsupported("Log size must be a multiple of 1 MB".into()));
    }
    if !block.is_power_of_two() {
        return Err(Error::Unsupported("Block size must be a power of two".into()));
    }
    check_block_size(block)?;
    let is_fixed = options.subformat == Subformat::Fixed;
    let metadata = Metadata { block, size, sector: SECTOR, leaves_blocks_allocated: is_fixed };
    // In an image of an empty disk QEMU looks for so many entries.
    let entries = if size == 0 { u64::from(u32::MAX) / metadata.chunk_ratio() } else { metadata.entries() };
    let table_length = (entries * 8).next_multiple_of(MIB);
    let regions = Regions {
        metadata: Region { offset: MIB + log, length: MIB as u32 },
        bat: Region { offset: 2 * MIB + log, length: table_length as u32 },
    };
    let data = regions.bat.offset + table_length;
    file.truncate(0, Preallocation::Off).await?;
    let length = if is_fixed { data + metadata.blocks() * block } else { data };
    file.truncate(length, Preallocation::Off).await?;
    let mut identifier = IDENTIFIER.to_vec();
    identifier.extend("Brolga".encode_utf16().flat_map(u16::to_le_bytes));
    file.write_bytes(0, &identifier).await?;
    regions.store(file).await?;
    metadata.store(file, regions.metadata).await?;
    let entry = |index: u64| match options.subformat {
        Subformat::Fixed => (data + index * block) | FULLY_PRESENT,
        Subformat::Dynamic if options.block_state_zero => ZERO,
        Subformat::Dynamic => NOT_PRESENT,
    };
    let (ratio, blocks) = (metadata.chunk_ratio(), metadata.blocks());
    let mut first = 0;
    while first < blocks && (is_fixed || options.block_state_zero) {
        // Those up to the next entry of a sector bitmap.
        let count = (ratio - first % ratio).min(blocks - first);
        let entries: Vec<u8> = (first..first + count).flat_map(|index| entry(index).to_le_bytes()).collect();
        file.write_bytes(regions.bat.offset + metadata.index(first) * 8, &entries).await?;
        first += count;
    }
    file.flush().await?;
    // Only now it is an image.
    Header::new(MIB, log as u32).store(file).await.map(|_| ())
}
