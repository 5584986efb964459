//! The `qcow` format, the predecessor of qcow2: QEMU's format, version 1, with compressed clusters and a backing file.
//!
//! The header is followed by the L1 table, whose entries point to L2 tables, whose entries point to clusters. Encrypted images are not
//! built.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::deflate::{Wrapper, deflate, inflate};
use crate::fields::{Endian, Fields};
use crate::sparse::{Layout, Level, Pages, Place, Sparse, Table};
use crate::{Driver, Error, FieldError, Node, Preallocation};

const MAGIC: &[u8; 4] = b"QFI\xfb";
const VERSION: u32 = 1;
const HEADER: u64 = 48;
/// Most bytes of the backing file's name.
const MOST_NAME: u32 = 1023;
/// Most bytes of a disk.
const MOST_SIZE: u64 = 1 << 56;
/// Most entries of the L1 table: QEMU takes no more.
const MOST_L1: u64 = i32::MAX as u64 / 8;
/// The bit of an L2 entry that says that the cluster is compressed.
const COMPRESSED: u64 = 1 << 63;
/// Bits of the window of compressed data, which QEMU reads with no larger one.
const WINDOW_BITS: u8 = 12;

/// Whether the first bytes of a file are those of a qcow image.
pub fn probe(start: &[u8]) -> bool {
    start.starts_with(MAGIC) && Endian::Big.u32_at(start, 4) == Some(VERSION)
}

/// How an image is made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Length of the disk, bytes; it is rounded up to whole sectors of 512 bytes.
    pub size: u64,
    /// Name of the backing file, as the image is to have it.
    pub backing_file: Option<String>,
}

/// Makes an image without data.
pub async fn create(file: &Node, options: &CreateOptions) -> Result<(), Error> {
    // With a backing file less is copied when something is written.
    let (cluster_bits, l2_bits) = if options.backing_file.is_some() { (9_u8, 12_u8) } else { (12, 9) };
    if options.size == 0 {
        return Err(Error::Unsupported("Image size is too small, cannot be zero length".into()));
    }
    let most = MOST_L1 << (cluster_bits + l2_bits);
    let too_long = || Error::Unsupported("The image size is too large for file format 'qcow'".into());
    let size = options.size.checked_next_multiple_of(512).filter(|size| *size <= most).ok_or_else(too_long)?;
    let name = options.backing_file.as_deref().unwrap_or_default().as_bytes();
    if name.len() > MOST_NAME as usize {
        let text = format!("the name of the backing file has {} bytes; at most {MOST_NAME} are possible", name.len());
        return Err(Error::Unsupported(text));
    }
    let l1_table = (HEADER + name.len() as u64).next_multiple_of(8);
    let l1_entries = size.div_ceil(1 << (cluster_bits + l2_bits));
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_be_bytes());
    header.extend(if name.is_empty() { 0 } else { HEADER }.to_be_bytes());
    header.extend((name.len() as u32).to_be_bytes());
    // The time of the backing file's last change, which nobody looks at.
    header.extend(0_u32.to_be_bytes());
    header.extend(size.to_be_bytes());
    header.extend([cluster_bits, l2_bits, 0, 0]);
    header.extend(0_u32.to_be_bytes());
    header.extend(l1_table.to_be_bytes());
    header.extend(name);
    file.truncate(0, Preallocation::Off).await?;
    let end = (l1_table + l1_entries * 8).next_multiple_of(512);
    if file.length() < end {
        file.truncate(end, Preallocation::Off).await?;
    } else {
        file.write_zeroes(0, end, crate::ZeroFlags::empty()).await?;
    }
    file.write_bytes(0, &header).await?;
    file.flush().await
}

/// What the header of an image says.
#[derive(Clone, Debug)]
pub struct Header {
    /// Length of the disk, bytes.
    pub size: u64,
    /// Binary logarithm of a cluster's length in bytes.
    pub cluster_bits: u8,
    /// Binary logarithm of the number of entries of an L2 table.
    pub l2_bits: u8,
    /// Name of the backing file, as the image has it.
    pub backing_file: Option<String>,
    l1_table: u64,
}

impl Header {
    /// Reads it.
    pub async fn read(file: &Node) -> Result<Header, Error> {
        let bytes = file.read_vec(0, HEADER.min(file.length()) as usize).await?;
        if !probe(&bytes) {
            return Err(Error::Unsupported("Image not in qcow format".into()));
        }
        let mut fields = Fields::new("the qcow header", &bytes);
        fields.bytes("magic and version", 8)?;
        let (name_offset, name_length) = (fields.u64("backing_file_offset")?, fields.u32("backing_file_size")?);
        fields.u32("mtime")?;
        let size = fields.u64("size")?;
        if size > MOST_SIZE {
            return Err(FieldError::value("size", size, format!("it must be at most {MOST_SIZE}")).into());
        }
        let (cluster_bits, l2_bits) = (fields.u8("cluster_bits")?, fields.u8("l2_bits")?);
        if !(9..=16).contains(&cluster_bits) {
            return Err(FieldError::value("cluster_bits", cluster_bits, "it must be between 9 and 16").into());
        }
        if !(6..=13).contains(&l2_bits) {
            return Err(FieldError::value("l2_bits", l2_bits, "it must be between 6 and 13").into());
        }
        fields.u16("padding")?;
        match fields.u32("crypt_method")? {
            0 => {}
            1 => return Err(Error::Unsupported("qcow images that are encrypted with AES are not built".into())),
            other => return Err(FieldError::value("crypt_method", other, "0 (none) and 1 (aes) are known").into()),
        }
        let l1_table = fields.u64("l1_table_offset")?;
        let mut backing_file = None;
        if name_offset != 0 {
            if name_length > MOST_NAME {
                let valid = format!("it must be at most {MOST_NAME}");
                return Err(FieldError::value("backing_file_size", name_length, valid).into());
            }
            if name_offset.checked_add(name_length.into()).is_none_or(|end| end > file.length()) {
                let valid = format!("{name_length} bytes must be there, and the file has {}", file.length());
                return Err(FieldError::value("backing_file_offset", name_offset, valid).into());
            }
            let name = file.read_vec(name_offset, name_length as usize).await?;
            let mut name = Fields::new("the qcow header", &name);
            backing_file = Some(name.text("backing_file", name_length as usize)?);
        }
        Ok(Header { size: size.next_multiple_of(512), cluster_bits, l2_bits, backing_file, l1_table })
    }
}

/// The image in a file. `backing` has what is not in it; the image names it ([`Header::backing_file`]).
pub async fn open(file: Arc<Node>, backing: Option<Arc<Node>>) -> Result<Box<dyn Driver>, Error> {
    let header = Header::read(&file).await?;
    let entries = header.size.div_ceil(1 << (header.cluster_bits + header.l2_bits));
    if entries > MOST_L1 {
        let valid = format!("with these cluster_bits and l2_bits it needs {entries} L1 entries, more than {MOST_L1}");
        return Err(FieldError::value("size", header.size, valid).into());
    }
    let l1 = Table { start: header.l1_table, entries, width: 8, endian: Endian::Big };
    l1.check("l1_table_offset", HEADER, entries, &file)?;
    let layout = Qcow {
        pages: Pages::new(file.clone()),
        end: Mutex::new(file.length()),
        file: file.clone(),
        header,
        l1,
        adding: tokio::sync::Mutex::default(),
    };
    Ok(Box::new(Sparse::new(file, backing, layout)))
}

struct Qcow {
    pages: Pages,
    file: Arc<Node>,
    header: Header,
    l1: Table,
    /// Where the file ends once everything is written that has got its place.
    // Lock order: alone.
    end: Mutex<u64>,
    /// Held while an L2 table is added, so that no two are for the same clusters.
    adding: tokio::sync::Mutex<()>,
}

impl Qcow {
    /// Room for so many bytes behind everything else, at a multiple of `alignment`.
    fn room(&self, length: u64, alignment: u64) -> u64 {
        let mut end = self.end.lock();
        let start = end.next_multiple_of(alignment);
        *end = start + length;
        start
    }

    fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    /// The L2 table that an L1 entry points to.
    fn l2(&self, entry: u64) -> Result<Option<Table>, Error> {
        if entry == 0 {
            return Ok(None);
        }
        let table = Table { start: entry, entries: 1 << self.header.l2_bits, width: 8, endian: Endian::Big };
        // New ones are not in the file before they are flushed.
        let end = *self.end.lock();
        if entry < HEADER || entry.checked_add(table.entries * 8).is_none_or(|last| last > end) {
            let valid =
                format!("{} bytes must be there between the header and the file's end {end}", table.entries * 8);
            return Err(FieldError::value("the offset of an L2 table", entry, valid).into());
        }
        Ok(Some(table))
    }

    /// The L1 index and the L2 index of a cluster.
    fn indexes(&self, block: u64) -> (u64, u64) {
        (block >> self.header.l2_bits, block & ((1 << self.header.l2_bits) - 1))
    }

    /// How far the offset of a compressed cluster goes in its entry; the length is above.
    fn offset_bits(&self) -> u8 {
        63 - self.header.cluster_bits
    }
}

#[async_trait]
impl Layout for Qcow {
    fn name(&self) -> &'static str {
        "qcow"
    }
    fn length(&self) -> u64 {
        self.header.size
    }
    fn block_size(&self) -> u64 {
        self.cluster()
    }
    fn pages(&self) -> &Pages {
        &self.pages
    }

    async fn find(&self, block: u64) -> Result<Place, Error> {
        let (l1_index, l2_index) = self.indexes(block);
        let Some(l2) = self.l2(self.l1.get(&self.pages, l1_index).await?)? else { return Ok(Place::Absent) };
        let entry = l2.get(&self.pages, l2_index).await?;
        if entry == 0 {
            return Ok(Place::Absent);
        }
        if entry & COMPRESSED == 0 {
            return Place::at(entry, "the offset of a cluster", HEADER, &self.file);
        }
        let offset = entry & ((1 << self.offset_bits()) - 1);
        let length = (entry >> self.offset_bits()) & (self.cluster() - 1);
        match Place::at(offset, "the offset of a compressed cluster", HEADER, &self.file)? {
            Place::At(offset) => Ok(Place::Packed(offset, length as usize)),
            other => Ok(other),
        }
    }

    async fn reserve(&self) -> Result<u64, Error> {
        Ok(self.room(self.cluster(), self.cluster()))
    }

    async fn set(&self, block: u64, place: Place) -> Result<(), Error> {
        let entry = match place {
            Place::At(offset) => offset,
            Place::Packed(offset, length) => COMPRESSED | (length as u64) << self.offset_bits() | offset,
            Place::Absent | Place::Zero => return Err(Error::Unsupported("a qcow cluster cannot be zero".into())),
        };
        let (l1_index, l2_index) = self.indexes(block);
        let mut l2 = self.l2(self.l1.get(&self.pages, l1_index).await?)?;
        if l2.is_none() {
            let _turn = self.adding.lock().await;
            l2 = self.l2(self.l1.get(&self.pages, l1_index).await?)?;
            if l2.is_none() {
                let start = self.room(8 << self.header.l2_bits, self.cluster());
                let added = Table { start, entries: 1 << self.header.l2_bits, width: 8, endian: Endian::Big };
                added.add(&self.pages, Level::Leaf)?;
                self.l1.set(&self.pages, l1_index, start, Level::Root).await?;
                l2 = Some(added);
            }
        }
        let Some(l2) = l2 else { return Ok(()) };
        l2.set(&self.pages, l2_index, entry, Level::Leaf).await
    }

    async fn unpack(&self, _block: u64, packed: Vec<u8>) -> Result<Vec<u8>, Error> {
        inflate(packed, self.cluster() as usize, Wrapper::None).await
    }

    fn has_packed(&self) -> bool {
        true
    }

    async fn compress(&self, data: Vec<u8>) -> Result<Option<Vec<u8>>, Error> {
        let most = data.len();
        deflate(data, most, Wrapper::None, WINDOW_BITS).await
    }

    async fn pack(&self, _block: u64, compressed: Vec<u8>) -> Result<(u64, Vec<u8>, Place), Error> {
        let room = self.room(compressed.len() as u64, 1);
        let place = Place::Packed(room, compressed.len());
        Ok((room, compressed, place))
    }
}
