//! The metadata region: what the disk is like.

use uuid::{Uuid, uuid};

use super::MIB;
use super::header::{Region, guid};
use crate::fields::Fields;
use crate::{Error, FieldError, Node};

const SIGNATURE: &[u8; 8] = b"metadata";
/// Bytes of the table at the beginning of the region, behind which the items are.
const TABLE: usize = 64 << 10;
const MOST_ITEMS: u16 = 2047;
const IS_REQUIRED: u32 = 1 << 2;
const IS_VIRTUAL_DISK: u32 = 1 << 1;
const HAS_PARENT: u32 = 1 << 1;
const LEAVES_BLOCKS_ALLOCATED: u32 = 1;

const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");

/// Most bytes of a block.
pub(crate) const MOST_BLOCK: u64 = 256 << 20;
/// Most bytes of a disk.
pub(super) const MOST_SIZE: u64 = 64 << 40;

/// What the disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Bytes of a block.
    pub(super) block: u64,
    /// Length of the disk, bytes.
    pub(super) size: u64,
    /// Bytes of a sector, as the guest sees it.
    pub(super) sector: u64,
    /// All blocks are to have a place (a fixed disk).
    pub(super) leaves_blocks_allocated: bool,
}

impl Metadata {
    pub(super) async fn read(file: &Node, region: Region) -> Result<Metadata, Error> {
        let table = file.read_vec(region.offset, TABLE).await?;
        let mut fields = Fields::little("the metadata table", &table);
        if fields.bytes("signature", 8)? != SIGNATURE {
            return Err(Error::Corrupt("the metadata region begins with \"metadata\"".into()));
        }
        fields.u16("reserved")?;
        let count = fields.u16("EntryCount")?;
        if count > MOST_ITEMS {
            let valid = format!("it must be at most {MOST_ITEMS}");
            return Err(FieldError::value("EntryCount of the metadata", count, valid).into());
        }
        fields.bytes("reserved", 20)?;
        let (mut parameters, mut size, mut sector) = (None, None, None);
        for _ in 0..count {
            let kind = guid(&mut fields, "ItemId")?;
            let (offset, length, flags) = (fields.u32("Offset")?, fields.u32("Length")?, fields.u32("flags")?);
            fields.u32("reserved")?;
            let needed = match kind {
                FILE_PARAMETERS | DISK_SIZE => 8,
                LOGICAL_SECTOR => 4,
                DISK_ID | PHYSICAL_SECTOR => continue,
                _ if flags & IS_REQUIRED != 0 => {
                    return Err(Error::Unsupported(format!("the image has metadata that is not known here: {kind}")));
                }
                _ => continue,
            };
            let end = u64::from(offset) + u64::from(length);
            if (offset as usize) < TABLE || length < needed || end > region.length.into() {
                let valid = format!("{needed} bytes must be there between {TABLE} and {}", region.length);
                return Err(FieldError::value("Offset of a metadata item", offset, valid).into());
            }
            let bytes = file.read_vec(region.offset + u64::from(offset), needed as usize).await?;
            let mut item = Fields::little("a metadata item", &bytes);
            match kind {
                FILE_PARAMETERS => parameters = Some((item.u32("BlockSize")?, item.u32("parameters")?)),
                DISK_SIZE => size = Some(item.u64("VirtualDiskSize")?),
                _ => sector = Some(item.u32("LogicalSectorSize")?),
            }
        }
        let missing = |name| Error::Corrupt(format!("the image has no metadata item {name}"));
        let (block, flags) = parameters.ok_or_else(|| missing("File Parameters"))?;
        let size = size.ok_or_else(|| missing("Virtual Disk Size"))?;
        let sector = sector.ok_or_else(|| missing("Logical Sector Size"))?;
        if flags & HAS_PARENT != 0 {
            return Err(Error::Unsupported("differencing VHDX images are not built".into()));
        }
        check_block_size(block.into())?;
        if !matches!(sector, 512 | 4096) {
            return Err(FieldError::value("LogicalSectorSize", sector, "it must be 512 or 4096").into());
        }
        if size > MOST_SIZE || !size.is_multiple_of(sector.into()) {
            let valid = format!("it must be a multiple of {sector} and at most {MOST_SIZE}");
            return Err(FieldError::value("VirtualDiskSize", size, valid).into());
        }
        let leaves_blocks_allocated = flags & LEAVES_BLOCKS_ALLOCATED != 0;
        Ok(Metadata { block: block.into(), size, sector: sector.into(), leaves_blocks_allocated })
    }

    /// Writes the region of a new image.
    pub(super) async fn store(&self, file: &Node, region: Region) -> Result<(), Error> {
        let mut parameters = (self.block as u32).to_le_bytes().to_vec();
        parameters.extend(u32::from(self.leaves_blocks_allocated).to_le_bytes());
        let items = [
            (FILE_PARAMETERS, parameters, IS_REQUIRED),
            (DISK_SIZE, self.size.to_le_bytes().to_vec(), IS_REQUIRED | IS_VIRTUAL_DISK),
            (DISK_ID, Uuid::new_v4().to_bytes_le().to_vec(), IS_REQUIRED | IS_VIRTUAL_DISK),
            (LOGICAL_SECTOR, (self.sector as u32).to_le_bytes().to_vec(), IS_REQUIRED | IS_VIRTUAL_DISK),
            (PHYSICAL_SECTOR, (self.sector as u32).to_le_bytes().to_vec(), IS_REQUIRED | IS_VIRTUAL_DISK),
        ];
        let mut table = SIGNATURE.to_vec();
        table.extend([0; 2]);
        table.extend((items.len() as u16).to_le_bytes());
        table.extend([0; 20]);
        let mut data = Vec::new();
        for (kind, bytes, flags) in items {
            table.extend(kind.to_bytes_le());
            table.extend(((TABLE + data.len()) as u32).to_le_bytes());
            table.extend((bytes.len() as u32).to_le_bytes());
            table.extend(flags.to_le_bytes());
            table.extend([0; 4]);
            data.extend(bytes);
        }
        table.resize(TABLE, 0);
        table.extend(data);
        file.write_bytes(region.offset, &table).await
    }

    /// Payload blocks of the disk.
    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block)
    }

    /// How many payload blocks come before each sector bitmap in the table.
    pub(super) fn chunk_ratio(&self) -> u64 {
        ((1 << 23) * self.sector / self.block).max(1)
    }

    /// Where the entry of a payload block is in the table: entries of sector bitmaps, which only images with a parent use, are between.
    pub(super) fn index(&self, block: u64) -> u64 {
        block + block / self.chunk_ratio()
    }

    /// Entries of the table.
    pub(super) fn entries(&self) -> u64 {
        self.blocks().checked_sub(1).map_or(0, |last| self.index(last) + 1)
    }
}

/// Checks the length of blocks.
pub(super) fn check_block_size(block: u64) -> Result<(), Error> {
    if block.is_power_of_two() && (MIB..=MOST_BLOCK).contains(&block) {
        return Ok(());
    }
    let valid = format!("it must be a power of two between {MIB} and {MOST_BLOCK}");
    Err(FieldError::value("BlockSize", block, valid).into())
}
