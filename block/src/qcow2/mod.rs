//! The `qcow2` format, versions 2 and 3: QEMU's `docs/interop/qcow2.rst`.
//!
//! An image may come from anywhere, so every number in it is checked before it is used, and
//! nothing is read into memory whose size an image alone decides.

mod amend;
mod bitmaps;
mod cache;
mod check;
mod compressed;
mod copied;
mod create;
mod encode;
mod entries;
mod extensions;
mod flush;
mod header;
mod image;
mod internal_snapshots;
mod luks;
mod read;
mod refcounts;
mod resize;
mod snapshots;
mod write;
mod zero;

pub use amend::AmendOptions;
pub use bitmaps::{Bitmap, BitmapFlags};
pub use create::{CreateOptions, create};
pub use extensions::Extensions;
pub use header::{CompressionType, Encryption, Header, Incompatible};
pub use image::{Files, ImageUse, Qcow2};
pub use luks::{KeySlot, Luks};
pub use snapshots::Snapshot;

use crate::fields::FieldError;
use crate::{Error, Node};

/// What a qcow2 image says of itself.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// The header.
    pub header: Header,
    /// What stands behind it.
    pub extensions: Extensions,
    /// Name of the backing file as the image has it, if there is one.
    pub backing_file: Option<String>,
    /// Internal snapshots, in the order of the table.
    pub snapshots: Vec<Snapshot>,
    /// Persistent bitmaps, in the order of the directory.
    pub bitmaps: Vec<Bitmap>,
    /// The header of LUKS encryption.
    pub luks: Option<Luks>,
}

impl Metadata {
    /// Bytes of the table of internal snapshots.
    fn snapshot_table_bytes(&self) -> u64 {
        self.snapshots.iter().map(Snapshot::table_bytes).sum()
    }

    /// Where the directory of bitmaps is, and its length in bytes.
    fn bitmap_directory(&self) -> Option<(u64, u64)> {
        self.extensions.bitmaps.as_ref().filter(|_| self.header.bitmaps_are_valid()).map(bitmaps::Directory::place)
    }

    /// Whether the first bytes of a file are those of a qcow2 image.
    pub fn probe(start: &[u8]) -> bool {
        start.starts_with(&header::MAGIC) && start.get(4..8).is_some_and(|version| matches!(version, [0, 0, 0, 2 | 3]))
    }

    /// Reads the metadata of the image in a file.
    pub async fn read(file: &Node) -> Result<Metadata, MetadataError> {
        let (header, first_cluster) = Header::read(file).await?;
        let (extensions, backing_file) = extensions::read(&header, &first_cluster)?;
        let snapshots = snapshots::read(file, &header).await?;
        let bitmaps = match &extensions.bitmaps {
            Some(directory) if header.bitmaps_are_valid() => bitmaps::read(file, directory).await?,
            _ => Vec::new(),
        };
        let luks = match (header.encryption, extensions.encryption_header) {
            (Encryption::Luks, Some((offset, length))) => Some(luks::read(file, offset, length).await?),
            (Encryption::Luks, None) => return Err(MetadataError::NoEncryptionHeader),
            _ => None,
        };
        Ok(Metadata { header, extensions, backing_file, snapshots, bitmaps, luks })
    }
}

/// Bytes of the file that a field of the image says are there.
async fn read_part(file: &Node, field: &'static str, offset: u64, length: u64) -> Result<Vec<u8>, MetadataError> {
    if offset.checked_add(length).is_none_or(|end| end > file.length()) {
        let valid = format!("{length} bytes must be there, and the file has {}", file.length());
        return Err(FieldError::value(field, offset, valid).into());
    }
    Ok(file.read_vec(offset, length as usize).await?)
}

/// Why the metadata of an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// It has other first bytes, or is too short for a header.
    #[error("the image is not in qcow2 format")]
    NotQcow2,
    /// A version that is not known.
    #[error("the image is of qcow2 version {0}; versions 2 and 3 are known")]
    Version(u32),
    /// A field has a value that no image may have.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// It uses what only a newer program knows.
    #[error("the image uses features of qcow2 that are not known here: {0}")]
    Features(String),
    /// The image says that it is encrypted with LUKS and has no header for that.
    #[error("the image is encrypted with LUKS, but has no LUKS header")]
    NoEncryptionHeader,
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] Error),
}

impl From<MetadataError> for Error {
    fn from(error: MetadataError) -> Error {
        match error {
            MetadataError::Field(error) => Error::Field(error),
            MetadataError::File(error) => error,
            MetadataError::NotQcow2 => Error::Unsupported("Image is not in qcow2 format".into()),
            other => Error::Unsupported(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileOptions, HostFile};

    /// A version 3 image of 1 MiB without data, in clusters of 64 KiB.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 3 << 16];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &header::MAGIC);
        put(4, &3_u32.to_be_bytes());
        put(20, &16_u32.to_be_bytes());
        put(24, &(1_u64 << 20).to_be_bytes());
        put(36, &1_u32.to_be_bytes());
        put(40, &0x2_0000_u64.to_be_bytes());
        put(48, &0x1_0000_u64.to_be_bytes());
        put(56, &1_u32.to_be_bytes());
        put(96, &4_u32.to_be_bytes());
        put(100, &104_u32.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Metadata, MetadataError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let options = FileOptions { read_only: true, ..FileOptions::default() };
        let file = Node::new("file", HostFile::open(file.path(), options).unwrap());
        futures_executor::block_on(Metadata::read(&file))
    }

    /// What is said where so many bytes at an offset of the header are a number.
    fn error_with(offset: usize, value: u64, length: usize) -> String {
        let mut bytes = image();
        bytes[offset..offset + length].copy_from_slice(&value.to_be_bytes()[8 - length..]);
        read(&bytes).unwrap_err().to_string()
    }

    #[test]
    fn an_image() {
        let metadata = read(&image()).unwrap();
        assert_eq!((metadata.header.size, metadata.header.cluster_size()), (1 << 20, 1 << 16));
        assert_eq!((metadata.backing_file, metadata.snapshots.len()), (None, 0));
        assert!(Metadata::probe(&image()));
        assert!(!Metadata::probe(b"QFI"));
    }

    #[test]
    fn absurd_fields_are_named() {
        for (offset, value, length, named) in [
            (20, 8, 4, "cluster_bits is 8"),
            (20, 64, 4, "cluster_bits is 64"),
            (32, 3, 4, "crypt_method is 3"),
            (36, u64::from(u32::MAX), 4, "l1_size is 4294967295"),
            (36, 0, 4, "l1_size is 0"),
            (24, u64::MAX, 8, "l1_size is 1"),
            (40, 7, 8, "l1_table_offset is 7"),
            (48, 1, 8, "refcount_table_offset is 1"),
            (56, 1 << 20, 4, "refcount_table_clusters is 1048576"),
            (60, u64::from(u32::MAX), 4, "nb_snapshots is 4294967295"),
            (96, 7, 4, "refcount_order is 7"),
            (100, 8, 4, "header_length is 8"),
            (100, 1 << 20, 4, "header_length is 1048576"),
            (72, 1 << 40, 8, "incompatible feature bit 40"),
            (8, u64::MAX, 8, "backing_file_offset is 18446744073709551615"),
            (4, 9, 4, "version 9"),
        ] {
            let error = error_with(offset, value, length);
            assert!(error.contains(named), "{error:?} does not say {named:?}");
        }
        let mut snapshots = image();
        snapshots[60..64].copy_from_slice(&1_u32.to_be_bytes());
        snapshots[64..72].copy_from_slice(&(1_u64 << 40).to_be_bytes());
        assert!(read(&snapshots).unwrap_err().to_string().contains("snapshots_offset is 1099511627776"));
    }

    #[test]
    fn no_beginning_of_an_image_and_no_changed_byte_does_harm() {
        let whole = image();
        for length in 0..200 {
            let _ = read(&whole[..length]);
        }
        for (at, bit) in (0..160).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            let _ = read(&changed);
        }
    }
}
