//! The directory of persistent bitmaps.

use super::{MetadataError, read_part};
use crate::Node;
use crate::fields::{FieldError, Fields};

/// Most bitmaps of an image.
const MOST: u32 = 65535;
/// Most bytes of the directory.
const MOST_BYTES: u64 = MOST as u64 * 2048;
/// Most bytes of a bitmap's name.
const MOST_NAME: u16 = 1023;

/// Where the bitmaps are.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    count: u32,
    bytes: u64,
    offset: u64,
}

/// Bits of [`Bitmap::flags`].
pub struct BitmapFlags;

impl BitmapFlags {
    /// It was not written back: what it says is not to be relied on.
    pub const IN_USE: u32 = 1 << 0;
    /// It records writes from when the image is opened.
    pub const AUTO: u32 = 1 << 1;
    /// Who does not know its extra data may still use it.
    pub const EXTRA_DATA_COMPATIBLE: u32 = 1 << 2;
    /// Bits of an offset in an entry of a bitmap's table.
    pub(super) const TABLE_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
}

/// A persistent bitmap: which parts of the disk were written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bits of [`BitmapFlags`].
    pub flags: u32,
    /// How much of the disk a bit is for, bytes.
    pub granularity: u64,
    /// Where its table is, and how many entries that has.
    pub table: (u64, u32),
}

impl Directory {
    /// Where it is, and its length in bytes.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.offset, self.bytes)
    }

    /// The header extension that says so.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.count.to_be_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(self.bytes.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        bytes
    }

    pub(super) fn read(fields: &mut Fields) -> Result<Directory, FieldError> {
        let count = fields.u32("nb_bitmaps")?;
        fields.u32("reserved")?;
        let bytes = fields.u64("bitmap_directory_size")?;
        let offset = fields.u64("bitmap_directory_offset")?;
        if count == 0 || count > MOST {
            return Err(FieldError::value("nb_bitmaps", count, format!("it must be between 1 and {MOST}")));
        }
        if bytes > MOST_BYTES {
            return Err(FieldError::value("bitmap_directory_size", bytes, format!("it must be at most {MOST_BYTES}")));
        }
        Ok(Directory { count, bytes, offset })
    }
}

/// Reads the directory.
pub(super) async fn read(file: &Node, directory: &Directory) -> Result<Vec<Bitmap>, MetadataError> {
    let Directory { count, bytes, offset } = *directory;
    let content = read_part(file, "bitmap_directory_offset", offset, bytes).await?;
    let mut fields = Fields::new("the bitmap directory", &content);
    let bitmaps = (0..count).map(|_| read_one(&mut fields)).collect::<Result<_, _>>()?;
    Ok(bitmaps)
}

fn read_one(fields: &mut Fields) -> Result<Bitmap, FieldError> {
    let table_offset = fields.u64("bitmap_table_offset")?;
    let table_entries = fields.u32("bitmap_table_size")?;
    let flags = fields.u32("flags")?;
    let kind = fields.u8("type")?;
    if kind != 1 {
        return Err(FieldError::value("type", kind, "1 is the only type of bitmaps"));
    }
    let granularity_bits = fields.u8("granularity_bits")?;
    if !(9..=31).contains(&granularity_bits) {
        return Err(FieldError::value("granularity_bits", granularity_bits, "it must be between 9 and 31"));
    }
    let name_length = fields.u16("name_size")?;
    if name_length > MOST_NAME {
        return Err(FieldError::value("name_size", name_length, format!("it must be at most {MOST_NAME}")));
    }
    let extra_length = fields.u32("extra_data_size")?;
    fields.bytes("extra_data", extra_length as usize)?;
    let name = fields.text("a bitmap's name", name_length.into())?;
    fields.align(8);
    Ok(Bitmap { name, flags, granularity: 1 << granularity_bits, table: (table_offset, table_entries) })
}
