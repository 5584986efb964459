//! What stands in the first MiB of the file: two headers and two region tables.

use uuid::{Uuid, uuid};

use super::MIB;
use crate::fields::{Endian, Fields};
use crate::{Error, FieldError, Node};

pub(super) const IDENTIFIER: &[u8; 8] = b"vhdxfile";
const HEADER_SIGNATURE: &[u8; 4] = b"head";
const REGIONS_SIGNATURE: &[u8; 4] = b"regi";
/// Where the two headers are. The one with the larger sequence number counts.
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER: usize = 4096;
/// Where the two region tables are, which say the same.
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const REGION_TABLE: usize = 64 << 10;
const MOST_REGIONS: u32 = 2047;
/// Where the checksums stand in both.
const CHECKSUM_AT: usize = 4;

pub(super) const BAT: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
pub(super) const METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

/// Most bytes of a log with entries.
const MOST_LOG: u32 = 128 << 20;

/// One of the headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    sequence: u64,
    /// Which of the two it is.
    slot: usize,
    file_write: Uuid,
    data_write: Uuid,
    /// Identifier of the entries of the log that count; nil: there are none.
    pub(super) log: Uuid,
    /// Where the log is in the file, bytes.
    pub(super) log_offset: u64,
    /// Bytes of the log.
    pub(super) log_length: u32,
}

impl Header {
    /// The header that counts.
    pub(super) async fn read(file: &Node) -> Result<Header, Error> {
        let mut found: Result<Header, Error> = Err(Error::Corrupt("neither header of the VHDX image is valid".into()));
        for (slot, at) in HEADERS.into_iter().enumerate() {
            let bytes = file.read_vec(at, HEADER).await?;
            match (Header::parse(&bytes, slot), &found) {
                (Ok(Some(header)), Ok(other)) if header.sequence <= other.sequence => {}
                (Ok(Some(header)), _) => found = Ok(header),
                (Ok(None), _) => {}
                // One that is whole and cannot be is named, unless the other one can.
                (Err(error), Err(_)) => found = Err(error),
                (Err(_), Ok(_)) => {}
            }
        }
        let header = found?;
        let end = header.log_offset.saturating_add(header.log_length.into());
        if header.log_length > 0 && (header.log_offset < MIB || end > file.length()) {
            let (length, end) = (header.log_length, file.length());
            let valid = format!("{length} bytes behind the first MiB must be there, and the file has {end}");
            return Err(FieldError::value("LogOffset", header.log_offset, valid).into());
        }
        Ok(header)
    }

    /// The header in these bytes; `None`: they are of none, or of one whose writing was not ended.
    fn parse(bytes: &[u8], slot: usize) -> Result<Option<Header>, Error> {
        if !bytes.starts_with(HEADER_SIGNATURE) || !is_sealed(bytes) {
            return Ok(None);
        }
        let mut fields = Fields::little("the VHDX header", bytes);
        fields.bytes("signature and checksum", 8)?;
        let sequence = fields.u64("SequenceNumber")?;
        let (file_write, data_write) = (guid(&mut fields, "FileWriteGuid")?, guid(&mut fields, "DataWriteGuid")?);
        let log = guid(&mut fields, "LogGuid")?;
        let log_version = fields.u16("LogVersion")?;
        if log_version != 0 && !log.is_nil() {
            return Err(FieldError::value("LogVersion", log_version, "0 is known").into());
        }
        let version = fields.u16("Version")?;
        if version != 1 {
            return Err(FieldError::value("Version", version, "1 is known").into());
        }
        let log_length = fields.u32("LogLength")?;
        if !log_length.is_multiple_of(MIB as u32) || log_length > MOST_LOG && !log.is_nil() {
            let valid = format!("it must be a multiple of {MIB}, and with entries in it at most {MOST_LOG}");
            return Err(FieldError::value("LogLength", log_length, valid).into());
        }
        let log_offset = fields.u64("LogOffset")?;
        if !log_offset.is_multiple_of(MIB) {
            return Err(FieldError::value("LogOffset", log_offset, format!("it must be a multiple of {MIB}")).into());
        }
        Ok(Some(Header { sequence, slot, file_write, data_write, log, log_offset, log_length }))
    }

    /// The first header of a new image.
    pub(super) fn new(log_offset: u64, log_length: u32) -> Header {
        let (file_write, data_write) = (Uuid::new_v4(), Uuid::new_v4());
        Header { sequence: 0, slot: 1, file_write, data_write, log: Uuid::nil(), log_offset, log_length }
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = HEADER_SIGNATURE.to_vec();
        bytes.extend([0; 4]);
        bytes.extend(self.sequence.to_le_bytes());
        for guid in [self.file_write, self.data_write, self.log] {
            bytes.extend(guid.to_bytes_le());
        }
        bytes.extend(0_u16.to_le_bytes());
        bytes.extend(1_u16.to_le_bytes());
        bytes.extend(self.log_length.to_le_bytes());
        bytes.extend(self.log_offset.to_le_bytes());
        bytes.resize(HEADER, 0);
        seal(&mut bytes);
        bytes
    }

    /// Writes it to both places, one after the other, so that one of them is whole at any time.
    pub(super) async fn store(mut self, file: &Node) -> Result<Header, Error> {
        for _ in 0..2 {
            self.slot = 1 - self.slot;
            self.sequence = self.sequence.wrapping_add(1);
            file.write_bytes(HEADERS[self.slot], &self.to_bytes()).await?;
            file.flush().await?;
        }
        Ok(self)
    }

    /// The same header where nothing in the log counts.
    pub(super) fn without_log(self) -> Header {
        Header { log: Uuid::nil(), ..self }
    }

    /// The same header for a file that has been changed, with what is on the disk.
    pub(super) fn changed(self) -> Header {
        Header { file_write: Uuid::new_v4(), data_write: Uuid::new_v4(), ..self }
    }
}

/// A part of the file that has a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// Where the table of blocks and the metadata are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regions {
    pub(super) bat: Region,
    pub(super) metadata: Region,
}

impl Regions {
    pub(super) async fn read(file: &Node) -> Result<Regions, Error> {
        for at in REGIONS {
            let bytes = file.read_vec(at, REGION_TABLE).await?;
            if bytes.starts_with(REGIONS_SIGNATURE) && is_sealed(&bytes) {
                return Regions::parse(&bytes, file);
            }
        }
        Err(Error::Corrupt("neither region table of the VHDX image is valid".into()))
    }

    fn parse(bytes: &[u8], file: &Node) -> Result<Regions, Error> {
        let mut fields = Fields::little("the region table", bytes);
        fields.bytes("signature and checksum", 8)?;
        let count = fields.u32("EntryCount")?;
        if count > MOST_REGIONS {
            return Err(FieldError::value("EntryCount", count, format!("it must be at most {MOST_REGIONS}")).into());
        }
        fields.u32("reserved")?;
        let (mut bat, mut metadata) = (None, None);
        for _ in 0..count {
            let kind = guid(&mut fields, "Guid")?;
            let (offset, length) = (fields.u64("FileOffset")?, fields.u32("Length")?);
            let is_required = fields.u32("Required")? & 1 != 0;
            let place = match kind {
                BAT => &mut bat,
                METADATA => &mut metadata,
                _ if is_required => {
                    return Err(Error::Unsupported(format!("the image has a region that is not known here: {kind}")));
                }
                _ => continue,
            };
            if !offset.is_multiple_of(MIB) || offset < MIB {
                let valid = format!("it must be a multiple of {MIB} and not 0");
                return Err(FieldError::value("FileOffset of a region", offset, valid).into());
            }
            let is_there = offset.checked_add(length.into()).is_some_and(|end| end <= file.length());
            if length == 0 || !length.is_multiple_of(MIB as u32) || !is_there {
                let valid = format!("it must be a multiple of {MIB}, and be in a file of {} bytes", file.length());
                return Err(FieldError::value("Length of a region", length, valid).into());
            }
            if place.replace(Region { offset, length }).is_some() {
                return Err(Error::Corrupt(format!("the region {kind} is there twice")));
            }
        }
        let missing = |name| Error::Corrupt(format!("the image has no {name} region"));
        Ok(Regions { bat: bat.ok_or_else(|| missing("BAT"))?, metadata: metadata.ok_or_else(|| missing("metadata"))? })
    }

    pub(super) async fn store(&self, file: &Node) -> Result<(), Error> {
        let mut bytes = REGIONS_SIGNATURE.to_vec();
        bytes.extend([0; 4]);
        bytes.extend(2_u32.to_le_bytes());
        bytes.extend([0; 4]);
        for (kind, region) in [(BAT, self.bat), (METADATA, self.metadata)] {
            bytes.extend(kind.to_bytes_le());
            bytes.extend(region.offset.to_le_bytes());
            bytes.extend(region.length.to_le_bytes());
            bytes.extend(1_u32.to_le_bytes());
        }
        bytes.resize(REGION_TABLE, 0);
        seal(&mut bytes);
        for at in REGIONS {
            file.write_bytes(at, &bytes).await?;
        }
        Ok(())
    }
}

/// A GUID, whose first three numbers are little-endian.
pub(super) fn guid(fields: &mut Fields, field: &'static str) -> Result<Uuid, FieldError> {
    let bytes = fields.bytes(field, 16)?;
    Ok(bytes.first_chunk().map_or(Uuid::nil(), |bytes| Uuid::from_bytes_le(*bytes)))
}

/// CRC-32C of the bytes, as if there were zeros where it stands.
fn checksum(bytes: &[u8]) -> u32 {
    let sum = crc32c::crc32c(bytes.get(..CHECKSUM_AT).unwrap_or_default());
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    crc32c::crc32c_append(sum, bytes.get(CHECKSUM_AT + 4..).unwrap_or_default())
}

/// The checksum of a header, a region table or an entry of the log is right.
pub(super) fn is_sealed(bytes: &[u8]) -> bool {
    Endian::Little.u32_at(bytes, CHECKSUM_AT) == Some(checksum(bytes))
}

fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
}
