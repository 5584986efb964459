//! The header of LUKS encryption, version 1: "LUKS On-Disk Format Specification", version 1.2.3.

use super::{MetadataError, read_part};
use crate::Node;
use crate::fields::{FieldError, Fields};

const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
const LENGTH: u64 = 592;
const KEY_SLOTS: usize = 8;
/// What is in a slot with a key.
const ACTIVE: u32 = 0x00ac_71f3;
/// What the format counts in.
const SECTOR: u64 = 512;

/// What an image says of its encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Luks {
    /// Name of the cipher, as `aes`.
    pub cipher: String,
    /// Its mode and how its initialisation vectors are made, as `xts-plain64`.
    pub mode: String,
    /// The hash.
    pub hash: String,
    /// Bytes of the master key.
    pub key_bytes: u32,
    /// Where the data would begin, bytes from the header's beginning.
    pub payload_offset: u64,
    /// Iterations by which the master key is checked.
    pub master_key_iterations: u32,
    /// The identifier.
    pub uuid: String,
    /// The slots for keys.
    pub slots: Vec<KeySlot>,
}

/// A slot for a key of [`Luks`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// It has a key.
    pub is_active: bool,
    /// Iterations that a password takes.
    pub iterations: u32,
    /// Where its material is, bytes from the header's beginning.
    pub key_offset: u64,
    /// Stripes into which the key is split.
    pub stripes: u32,
}

/// Reads the header, of which the image says where and how long it is.
pub(super) async fn read(file: &Node, offset: u64, length: u64) -> Result<Luks, MetadataError> {
    if length < LENGTH {
        return Err(
            FieldError::value("encryption header length", length, format!("it must be at least {LENGTH}")).into()
        );
    }
    let bytes = read_part(file, "encryption header offset", offset, LENGTH).await?;
    parse(&bytes).map_err(MetadataError::from)
}

fn parse(bytes: &[u8]) -> Result<Luks, FieldError> {
    let mut fields = Fields::new("the LUKS header", bytes);
    if fields.bytes("magic", MAGIC.len())? != MAGIC {
        return Err(FieldError::value("LUKS magic", u64::from(bytes[0]), "the header must begin with \"LUKS\""));
    }
    let version = fields.u16("LUKS version")?;
    if version != 1 {
        return Err(FieldError::value("LUKS version", version, "1 is known"));
    }
    let cipher = fields.padded_text("cipher-name", 32)?;
    let mode = fields.padded_text("cipher-mode", 32)?;
    let hash = fields.padded_text("hash-spec", 32)?;
    let payload_offset = u64::from(fields.u32("payload-offset")?) * SECTOR;
    let key_bytes = fields.u32("key-bytes")?;
    fields.bytes("mk-digest", 20 + 32)?;
    let master_key_iterations = fields.u32("mk-digest-iter")?;
    let uuid = fields.padded_text("uuid", 40)?;
    let slots = (0..KEY_SLOTS).map(|_| {
        let is_active = fields.u32("key slot active")? == ACTIVE;
        let iterations = fields.u32("key slot iterations")?;
        fields.bytes("key slot salt", 32)?;
        let key_offset = u64::from(fields.u32("key-material-offset")?) * SECTOR;
        let stripes = fields.u32("stripes")?;
        Ok(KeySlot { is_active, iterations, key_offset, stripes })
    });
    let slots = slots.collect::<Result<_, FieldError>>()?;
    Ok(Luks { cipher, mode, hash, key_bytes, payload_offset, master_key_iterations, uuid, slots })
}
