//! The `dmg` format, Apple's disk images (UDIF): read-only, with zlib and bzip2.
//!
//! A trailer says where a property list is, whose tables say of each chunk of the disk where it is and in which form. Images whose
//! tables are in a resource fork, and the compressions ADC, LZFSE and LZMA are not built.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use parking_lot::Mutex;

use crate::deflate::{Wrapper, inflate};
use crate::driver::{Role, Status, StatusKind};
use crate::fields::Fields;
use crate::{Driver, Error, FieldError, IoVector, Node};

const SECTOR: u64 = 512;
const TRAILER: u64 = 512;
const TRAILER_MAGIC: &[u8; 4] = b"koly";
const TABLE_MAGIC: &[u8; 4] = b"mish";
/// Bytes of a table before its entries.
const TABLE_HEADER: usize = 204;
/// Most bytes of the property list.
const MOST_LIST: u64 = 64 << 20;
/// Most bytes of a compressed chunk, in either form.
const MOST_CHUNK: u64 = 64 << 20;
/// Most sectors of a disk.
const MOST_SECTORS: u64 = 1 << 40;

const ZERO: u32 = 0;
const RAW: u32 = 1;
const IGNORED: u32 = 2;
const ZLIB: u32 = 0x8000_0005;
const BZIP2: u32 = 0x8000_0006;
const COMMENT: u32 = 0x7fff_fffe;
const END: u32 = 0xffff_ffff;

/// Whether a file of this name is taken for a disk image of Apple: nothing at its beginning tells.
pub fn probe_name(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "dmg")
}

/// The image in a file.
pub async fn open(file: Arc<Node>) -> Result<Box<dyn Driver>, Error> {
    let trailer_at = file.length().checked_sub(TRAILER);
    let no_image = || Error::Unsupported("Image not in DMG format: its last 512 bytes are no trailer".into());
    let trailer = file.read_vec(trailer_at.ok_or_else(no_image)?, TRAILER as usize).await?;
    if !trailer.starts_with(TRAILER_MAGIC) {
        return Err(no_image());
    }
    let mut fields = Fields::new("the trailer", &trailer);
    fields.bytes("magic, version, size, flags and running offset", 24)?;
    let data_fork = fields.u64("DataForkOffset")?;
    fields.bytes("lengths, segments and checksum", 0xd8 - 0x20)?;
    let (list_at, list_length) = (fields.u64("XMLOffset")?, fields.u64("XMLLength")?);
    fields.bytes("reserved", 0x1ec - 0xe8)?;
    let sectors = fields.u64("SectorCount")?;
    if list_length == 0 {
        return Err(Error::Unsupported("images without a property list are not built".into()));
    }
    if list_length > MOST_LIST {
        return Err(FieldError::value("XMLLength", list_length, format!("it must be at most {MOST_LIST}")).into());
    }
    if list_at.checked_add(list_length).is_none_or(|end| end > file.length()) {
        let valid = format!("{list_length} bytes must be there, and the file has {}", file.length());
        return Err(FieldError::value("XMLOffset", list_at, valid).into());
    }
    if sectors > MOST_SECTORS {
        return Err(FieldError::value("SectorCount", sectors, format!("it must be at most {MOST_SECTORS}")).into());
    }
    let list = file.read_vec(list_at, list_length as usize).await?;
    let file_length = file.length();
    let chunks = blocking::unblock(move || read_chunks(&list, data_fork, sectors, file_length)).await?;
    Ok(Box::new(Dmg {
        file,
        chunks,
        length: sectors * SECTOR,
        unpacked: Mutex::default(),
        unpacking: tokio::sync::Mutex::default(),
    }))
}

/// A stretch of the disk, in bytes.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    start: u64,
    length: u64,
    form: Form,
    /// Where it is in the file, and how many bytes it takes there.
    offset: u64,
    packed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Zero,
    Raw,
    Zlib,
    Bzip2,
}

/// The chunks that the tables in a property list have, in the order of the disk.
fn read_chunks(list: &[u8], data_fork: u64, sectors: u64, file_length: u64) -> Result<Vec<Chunk>, Error> {
    let list = std::str::from_utf8(list).map_err(|_| FieldError::Text { field: "the property list" })?;
    let missing = || Error::Corrupt("the property list has no key blkx with an array".into());
    let (_, behind) = list.split_once("<key>blkx</key>").ok_or_else(missing)?;
    let (tables, _) = behind.split_once("</array>").ok_or_else(missing)?;
    let mut chunks = Vec::new();
    for data in tables.split("<data>").skip(1) {
        let text: Vec<u8> =
            data.bytes().take_while(|byte| *byte != b'<').filter(|byte| !byte.is_ascii_whitespace()).collect();
        let table = base64::engine::general_purpose::STANDARD.decode(text);
        let table = table.map_err(|error| Error::Corrupt(format!("a table in the property list: {error}")))?;
        read_table(&table, data_fork, sectors, file_length, &mut chunks)?;
    }
    chunks.sort_by_key(|chunk| chunk.start);
    for pair in chunks.windows(2) {
        if pair[0].start + pair[0].length > pair[1].start {
            let text = format!("two chunks are for the sector {}", pair[1].start / SECTOR);
            return Err(Error::Corrupt(text));
        }
    }
    Ok(chunks)
}

fn read_table(
    table: &[u8],
    data_fork: u64,
    sectors: u64,
    file_length: u64,
    chunks: &mut Vec<Chunk>,
) -> Result<(), Error> {
    let mut fields = Fields::new("a table of chunks", table);
    if fields.bytes("magic", 4)? != TABLE_MAGIC {
        return Err(Error::Corrupt("a table in the property list begins with \"mish\"".into()));
    }
    fields.u32("version")?;
    let first = fields.u64("SectorNumber")?;
    fields.u64("SectorCount")?;
    let data = fields.u64("DataOffset")?;
    fields.bytes("checksum", TABLE_HEADER - 36)?;
    let count = fields.u32("BlockRunCount")?;
    for _ in 0..count {
        let kind = fields.u32("EntryType")?;
        fields.u32("comment")?;
        let (start, length) = (fields.u64("SectorNumber")?, fields.u64("SectorCount")?);
        let (offset, packed) = (fields.u64("CompressedOffset")?, fields.u64("CompressedLength")?);
        let form = match kind {
            ZERO | IGNORED => Form::Zero,
            RAW => Form::Raw,
            ZLIB => Form::Zlib,
            BZIP2 => Form::Bzip2,
            COMMENT => continue,
            END => break,
            other => {
                let valid = "raw, zlib (2147483653) and bzip2 (2147483654) are built";
                return Err(FieldError::value("EntryType", other, valid).into());
            }
        };
        let start =
            start.checked_add(first).filter(|start| start.checked_add(length).is_some_and(|end| end <= sectors));
        let Some(start) = start else {
            let valid = format!("with its SectorNumber it must be within the disk of {sectors} sectors");
            return Err(FieldError::value("SectorCount of a chunk", length, valid).into());
        };
        if length == 0 {
            continue;
        }
        let is_packed = matches!(form, Form::Zlib | Form::Bzip2);
        if is_packed && length > MOST_CHUNK / SECTOR {
            let valid = format!("a compressed chunk has at most {}", MOST_CHUNK / SECTOR);
            return Err(FieldError::value("SectorCount of a chunk", length, valid).into());
        }
        let packed = if form == Form::Raw { length * SECTOR } else { packed };
        if is_packed && packed > MOST_CHUNK {
            let valid = format!("it must be at most {MOST_CHUNK}");
            return Err(FieldError::value("CompressedLength", packed, valid).into());
        }
        let place = offset.checked_add(data).and_then(|offset| offset.checked_add(data_fork));
        let place = place.filter(|place| place.checked_add(packed).is_some_and(|end| end <= file_length));
        let place = match (form, place) {
            (Form::Zero, _) => 0,
            (_, Some(place)) => place,
            (_, None) => {
                let valid = format!("{packed} bytes must be there, and the file has {file_length}");
                return Err(FieldError::value("CompressedOffset", offset, valid).into());
            }
        };
        chunks.push(Chunk { start: start * SECTOR, length: length * SECTOR, form, offset: place, packed });
    }
    Ok(())
}

struct Dmg {
    file: Arc<Node>,
    /// In the order of the disk, without overlap.
    chunks: Vec<Chunk>,
    length: u64,
    /// The last chunk that was unpacked, by its beginning.
    // Lock order: alone.
    unpacked: Mutex<Option<(u64, IoVector)>>,
    /// Held while a chunk is unpacked, which takes much memory: one after the other.
    unpacking: tokio::sync::Mutex<()>,
}

impl Dmg {
    /// The chunk with the byte at `offset`, and how many bytes from there on are in it, or in none.
    fn find(&self, offset: u64) -> (Option<&Chunk>, u64) {
        let next = self.chunks.partition_point(|chunk| chunk.start + chunk.length <= offset);
        match self.chunks.get(next) {
            Some(chunk) if chunk.start <= offset => (Some(chunk), chunk.start + chunk.length - offset),
            Some(chunk) => (None, chunk.start - offset),
            None => (None, self.length.saturating_sub(offset)),
        }
    }

    async fn unpacked(&self, chunk: &Chunk) -> Result<IoVector, Error> {
        let _turn = self.unpacking.lock().await;
        let kept = self.unpacked.lock().clone();
        if let Some((_, bytes)) = kept.filter(|(start, _)| *start == chunk.start) {
            return Ok(bytes);
        }
        let packed = self.file.read_vec(chunk.offset, chunk.packed as usize).await?;
        let length = chunk.length as usize;
        let bytes = match chunk.form {
            Form::Bzip2 => unpack_bzip2(packed, length).await?,
            _ => inflate(packed, length, Wrapper::Zlib).await?,
        };
        if bytes.len() != length {
            let text = format!("the chunk at sector {} has {} bytes, not {length}", chunk.start / SECTOR, bytes.len());
            return Err(Error::Corrupt(text));
        }
        let bytes = IoVector::copy_of(&bytes);
        *self.unpacked.lock() = Some((chunk.start, bytes.clone()));
        Ok(bytes)
    }
}

async fn unpack_bzip2(packed: Vec<u8>, length: usize) -> Result<Vec<u8>, Error> {
    blocking::unblock(move || {
        let mut bytes = Vec::with_capacity(length);
        let read = bzip2::read::BzDecoder::new(&packed[..]).take(length as u64).read_to_end(&mut bytes);
        read.map_err(|error| Error::Corrupt(format!("compressed data: {error}")))?;
        Ok(bytes)
    })
    .await
}

#[async_trait]
impl Driver for Dmg {
    fn name(&self) -> &'static str {
        "dmg"
    }
    fn length(&self) -> u64 {
        self.length
    }
    fn is_read_only(&self) -> bool {
        true
    }

    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let there = self.length.saturating_sub(offset).min(to.len() as u64) as usize;
        to.slice(there, to.len() - there).fill(0);
        let mut done = 0;
        while done < there {
            let at = offset + done as u64;
            let (chunk, length) = self.find(at);
            let part = to.slice(done, length.min((there - done) as u64) as usize);
            done += part.len();
            match chunk {
                Some(chunk) if chunk.form == Form::Raw => self.file.read(chunk.offset + at - chunk.start, part).await?,
                Some(chunk) if chunk.form != Form::Zero => {
                    let bytes = self.unpacked(chunk).await?;
                    part.copy_from_vector(&bytes.slice((at - chunk.start) as usize, part.len()));
                }
                _ => part.fill(0),
            }
        }
        Ok(())
    }

    async fn write(&self, _offset: u64, _from: IoVector) -> Result<(), Error> {
        Err(Error::ReadOnly)
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let (chunk, found) = self.find(offset);
        let status = Status {
            length: found.min(length),
            kind: StatusKind::Zero,
            is_here: true,
            file_offset: None,
            is_compressed: false,
        };
        Ok(match chunk {
            Some(chunk) if chunk.form == Form::Raw => {
                Status { kind: StatusKind::Data, file_offset: Some(chunk.offset + offset - chunk.start), ..status }
            }
            Some(chunk) if chunk.form != Form::Zero => Status { kind: StatusKind::Data, is_compressed: true, ..status },
            _ => status,
        })
    }

    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        vec![(Role::File, self.file.clone())]
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
