//! The header.

use std::fmt;

use super::MetadataError;
use crate::Node;
use crate::fields::{FieldError, Fields};

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of a version 2 header; the least of a version 3 one.
pub(super) const V2_LENGTH: u64 = 72;
const V3_LENGTH: u64 = 104;
/// Bytes of the header of a new image of version 3.
pub(super) const V3_HEADER: u64 = 112;
/// Most bytes of the table of L1 entries.
const MOST_L1_BYTES: u64 = 32 << 20;
/// Most bytes of the refcount table.
const MOST_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Most internal snapshots.
const MOST_SNAPSHOTS: u32 = 65536;

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionType {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

impl fmt::Display for CompressionType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            CompressionType::Zlib => "zlib",
            CompressionType::Zstd => "zstd",
        })
    }
}

/// How data clusters are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// They are not.
    None,
    /// AES-CBC with a password for its key: broken, and only read.
    Aes,
    /// LUKS.
    Luks,
}

/// Bits of [`Header::incompatible_features`]: who does not know one must not use the image.
pub struct Incompatible;

impl Incompatible {
    /// Refcounts may be wrong: they were updated lazily and the image was not closed.
    pub const DIRTY: u64 = 1 << 0;
    /// Metadata was found to be corrupt: the image may only be read until it is repaired.
    pub const CORRUPT: u64 = 1 << 1;
    /// Data is in another file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// Clusters are compressed by another method than zlib.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries have bits for 32 parts of each cluster.
    pub const EXTENDED_L2: u64 = 1 << 4;
    const KNOWN: u64 = 0x1f;
}

/// The header's fields, checked.
#[derive(Clone, Debug)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Where the backing file's name is and its length, both 0 if there is none.
    pub(super) backing_file: (u64, u32),
    /// Bits of an offset in a cluster: 9 to 21.
    pub cluster_bits: u32,
    /// Length of the disk, bytes.
    pub size: u64,
    /// Encryption of data.
    pub encryption: Encryption,
    /// Entries of the active L1 table.
    pub l1_entries: u32,
    /// Where it is in the file.
    pub l1_table: u64,
    /// Where the refcount table is.
    pub refcount_table: u64,
    /// Its length, clusters.
    pub refcount_table_clusters: u32,
    /// Internal snapshots.
    pub snapshots: u32,
    /// Where their table is.
    pub snapshot_table: u64,
    /// Bits of [`Incompatible`].
    pub incompatible_features: u64,
    /// Bits that who does not know them may ignore.
    pub compatible_features: u64,
    /// Bits that who does not know them clears when writing.
    pub autoclear_features: u64,
    /// Bits of a refcount, as a power of two.
    pub refcount_order: u32,
    /// Bytes of the header.
    pub length: u64,
    /// How clusters are compressed.
    pub compression: CompressionType,
}

impl Header {
    /// Bit of [`Header::compatible_features`]: refcounts are updated lazily.
    pub(super) const LAZY_REFCOUNTS: u64 = 1 << 0;
    /// Bit of [`Header::autoclear_features`]: bitmaps are as of the last write.
    const BITMAPS: u64 = 1 << 0;
    /// Bit of [`Header::autoclear_features`]: the data file is a raw image.
    pub(super) const DATA_FILE_RAW: u64 = 1 << 1;
    /// Where the header has the incompatible features.
    pub(super) const INCOMPATIBLE_AT: u64 = 72;
    /// Where it has the autoclear features.
    pub(super) const AUTOCLEAR_AT: u64 = 88;
    /// Autoclear features that writers here keep true: bitmaps are not among them, as writes are not recorded in them.
    pub(super) const KNOWN_AUTOCLEAR: u64 = Header::DATA_FILE_RAW;

    /// Reads the header of an image; gives the bytes of the first cluster, too.
    pub(super) async fn read(file: &Node) -> Result<(Header, Vec<u8>), MetadataError> {
        if file.length() < V2_LENGTH {
            return Err(MetadataError::NotQcow2);
        }
        let start = file.read_vec(0, V2_LENGTH as usize).await?;
        if !start.starts_with(&MAGIC) {
            return Err(MetadataError::NotQcow2);
        }
        let mut fields = Fields::new("the header", &start);
        fields.bytes("magic", MAGIC.len())?;
        let version = fields.u32("version")?;
        if !matches!(version, 2 | 3) {
            return Err(MetadataError::Version(version));
        }
        let backing_file_offset = fields.u64("backing_file_offset")?;
        let backing_file_size = fields.u32("backing_file_size")?;
        let cluster_bits = fields.u32("cluster_bits")?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(FieldError::value("cluster_bits", cluster_bits, "it must be between 9 and 21").into());
        }
        let first_cluster = file.read_vec(0, (1_u64 << cluster_bits).min(file.length()) as usize).await?;
        let size = fields.u64("size")?;
        let encryption = match fields.u32("crypt_method")? {
            0 => Encryption::None,
            1 => Encryption::Aes,
            2 => Encryption::Luks,
            other => {
                return Err(FieldError::value("crypt_method", other, "0 (none), 1 (aes) and 2 (luks) are known").into());
            }
        };
        let mut header = Header {
            version,
            backing_file: (backing_file_offset, backing_file_size),
            cluster_bits,
            size,
            encryption,
            l1_entries: fields.u32("l1_size")?,
            l1_table: fields.u64("l1_table_offset")?,
            refcount_table: fields.u64("refcount_table_offset")?,
            refcount_table_clusters: fields.u32("refcount_table_clusters")?,
            snapshots: fields.u32("nb_snapshots")?,
            snapshot_table: fields.u64("snapshots_offset")?,
            incompatible_features: 0,
            compatible_features: 0,
            autoclear_features: 0,
            refcount_order: 4,
            length: V2_LENGTH,
            compression: CompressionType::Zlib,
        };
        if version >= 3 {
            header.read_version_3(&first_cluster)?;
        }
        header.check()?;
        Ok((header, first_cluster))
    }

    fn read_version_3(&mut self, first_cluster: &[u8]) -> Result<(), MetadataError> {
        let mut fields = Fields::new("the header", first_cluster);
        fields.bytes("version 2's part", V2_LENGTH as usize)?;
        self.incompatible_features = fields.u64("incompatible_features")?;
        self.compatible_features = fields.u64("compatible_features")?;
        self.autoclear_features = fields.u64("autoclear_features")?;
        self.refcount_order = fields.u32("refcount_order")?;
        if self.refcount_order > 6 {
            return Err(FieldError::value("refcount_order", self.refcount_order, "it must be at most 6").into());
        }
        let length = fields.u32("header_length")?;
        self.length = length.into();
        let valid = (V3_LENGTH..=self.cluster_size()).contains(&self.length);
        if !valid {
            let valid = format!("it must be between {V3_LENGTH} and the cluster size {}", self.cluster_size());
            return Err(FieldError::value("header_length", length, valid).into());
        }
        if self.length > V3_LENGTH {
            self.compression = match fields.u8("compression_type")? {
                0 => CompressionType::Zlib,
                1 => CompressionType::Zstd,
                other => {
                    return Err(FieldError::value("compression_type", other, "0 (zlib) and 1 (zstd) are known").into());
                }
            };
        }
        let says_other = self.incompatible_features & Incompatible::COMPRESSION != 0;
        if says_other != (self.compression != CompressionType::Zlib) {
            let valid = "the incompatible feature bit 3 must be set if and only if it is not 0";
            return Err(FieldError::value("compression_type", self.compression as u8, valid).into());
        }
        Ok(())
    }

    /// Checks what does not depend on other metadata. Bits that are not known are for the extensions to name.
    fn check(&self) -> Result<(), FieldError> {
        let cluster = self.cluster_size();
        if u64::from(self.l1_entries) * 8 > MOST_L1_BYTES {
            return Err(FieldError::value(
                "l1_size",
                self.l1_entries,
                format!("it must be at most {}", MOST_L1_BYTES / 8),
            ));
        }
        if u64::from(self.refcount_table_clusters) * cluster > MOST_REFCOUNT_TABLE_BYTES.max(cluster) {
            let most = (MOST_REFCOUNT_TABLE_BYTES / cluster).max(1);
            let field = "refcount_table_clusters";
            return Err(FieldError::value(field, self.refcount_table_clusters, format!("it must be at most {most}")));
        }
        if self.snapshots > MOST_SNAPSHOTS {
            return Err(FieldError::value(
                "nb_snapshots",
                self.snapshots,
                format!("it must be at most {MOST_SNAPSHOTS}"),
            ));
        }
        for (field, offset) in [
            ("l1_table_offset", self.l1_table),
            ("refcount_table_offset", self.refcount_table),
            ("snapshots_offset", self.snapshot_table),
        ] {
            if !offset.is_multiple_of(cluster) {
                return Err(FieldError::value(
                    field,
                    offset,
                    format!("it must be a multiple of the cluster size {cluster}"),
                ));
            }
        }
        let needed = self.size.div_ceil(self.bytes_of_l1_entry());
        if u64::from(self.l1_entries) < needed {
            let valid = format!("a disk of {} bytes needs {needed}", self.size);
            return Err(FieldError::value("l1_size", self.l1_entries, valid));
        }
        Ok(())
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How much of the disk an entry of the L1 table is for, bytes.
    fn bytes_of_l1_entry(&self) -> u64 {
        let l2_entries = self.cluster_size() / if self.has_extended_l2() { 16 } else { 8 };
        l2_entries * self.cluster_size()
    }

    /// Bits of a refcount.
    pub fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }

    /// L2 entries have bits for 32 parts of each cluster.
    pub fn has_extended_l2(&self) -> bool {
        self.incompatible_features & Incompatible::EXTENDED_L2 != 0
    }

    /// Metadata was found to be corrupt.
    pub fn is_corrupt(&self) -> bool {
        self.incompatible_features & Incompatible::CORRUPT != 0
    }

    /// Refcounts may be wrong.
    pub fn is_dirty(&self) -> bool {
        self.incompatible_features & Incompatible::DIRTY != 0
    }

    /// Data is in another file.
    pub fn has_data_file(&self) -> bool {
        self.incompatible_features & Incompatible::DATA_FILE != 0
    }

    /// That other file is a raw image of the disk.
    pub fn data_file_is_raw(&self) -> bool {
        self.autoclear_features & Header::DATA_FILE_RAW != 0
    }

    /// Refcounts are updated lazily.
    pub fn has_lazy_refcounts(&self) -> bool {
        self.compatible_features & Header::LAZY_REFCOUNTS != 0
    }

    /// No program that does not know bitmaps has written since they were.
    pub fn bitmaps_are_valid(&self) -> bool {
        self.autoclear_features & Header::BITMAPS != 0
    }

    /// Incompatible features that are not known here.
    pub(super) fn unknown_features(&self) -> u64 {
        self.incompatible_features & !Incompatible::KNOWN
    }
}
