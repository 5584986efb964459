//! New images.

use std::sync::Arc;

use super::header::{CompressionType, Encryption, Incompatible, V2_LENGTH, V3_HEADER};
use super::{Extensions, Files, Header, ImageUse, Metadata, Qcow2};
use crate::driver::{Driver, Preallocation};
use crate::{Error, Node};

/// What a new image is like.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Length of the disk, bytes.
    pub size: u64,
    /// 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: u32,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Bits of a refcount: a power of two up to 64.
    pub refcount_bits: u32,
    /// How clusters are compressed, where they are.
    pub compression: CompressionType,
    /// Clusters have 32 parts that are there or not.
    pub extended_l2: bool,
    /// Refcounts are written when the image is closed only.
    pub lazy_refcounts: bool,
    /// Name of the backing file, as the image has it, and its format.
    pub backing: Option<(String, Option<String>)>,
    /// Name of the file with the data, as the image has it.
    pub data_file: Option<String>,
    /// That file is a raw image of the disk.
    pub data_file_raw: bool,
    /// What is made ready.
    pub preallocation: Preallocation,
}

impl Default for CreateOptions {
    fn default() -> CreateOptions {
        CreateOptions {
            size: 0,
            version: 3,
            cluster_size: 65536,
            refcount_bits: 16,
            compression: CompressionType::Zlib,
            extended_l2: false,
            lazy_refcounts: false,
            backing: None,
            data_file: None,
            data_file_raw: false,
            preallocation: Preallocation::Off,
        }
    }
}

impl CreateOptions {
    /// Refuses what no image can be.
    fn check(&self) -> Result<(), Error> {
        let unsupported = |text: &str| Err(Error::Unsupported(text.into()));
        if !self.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_size) {
            return unsupported("Cluster size must be a power of two between 512 and 2048k");
        }
        if self.extended_l2 && self.cluster_size < 16384 {
            return unsupported("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return unsupported("Refcount width must be a power of two and may not exceed 64 bits");
        }
        if self.version < 3 {
            let newer = [
                (
                    self.refcount_bits != 16,
                    "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
                ),
                (
                    self.lazy_refcounts,
                    "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)",
                ),
                (
                    self.extended_l2,
                    "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
                ),
                (
                    self.compression != CompressionType::Zlib,
                    "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)",
                ),
                (
                    self.data_file.is_some(),
                    "External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
                ),
            ];
            if let Some((_, text)) = newer.into_iter().find(|(is_asked_for, _)| *is_asked_for) {
                return unsupported(text);
            }
        }
        if self.backing.is_some() && self.data_file_raw {
            return unsupported("Backing file and data-file-raw cannot be used at the same time");
        }
        if self.data_file_raw && self.data_file.is_none() {
            return unsupported("data-file-raw requires data-file");
        }
        Ok(())
    }

    fn header(&self) -> Header {
        let flag = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        Header {
            version: self.version,
            backing_file: (0, 0),
            cluster_bits: self.cluster_size.ilog2(),
            size: 0,
            encryption: Encryption::None,
            l1_entries: 0,
            l1_table: 0,
            refcount_table: self.cluster_size,
            refcount_table_clusters: 1,
            snapshots: 0,
            snapshot_table: 0,
            incompatible_features: flag(self.compression != CompressionType::Zlib, Incompatible::COMPRESSION)
                | flag(self.extended_l2, Incompatible::EXTENDED_L2)
                | flag(self.data_file.is_some(), Incompatible::DATA_FILE),
            compatible_features: flag(self.lazy_refcounts, Header::LAZY_REFCOUNTS),
            autoclear_features: flag(self.data_file_raw, Header::DATA_FILE_RAW),
            refcount_order: self.refcount_bits.ilog2(),
            length: if self.version < 3 { V2_LENGTH } else { V3_HEADER },
            compression: self.compression,
        }
    }
}

/// Makes a new image in `file`, whose content is lost, with its data in `data_file` if the options say so. Leaves it closed.
pub async fn create(file: Arc<Node>, data_file: Option<Arc<Node>>, options: &CreateOptions) -> Result<(), Error> {
    options.check()?;
    let backing_file = options.backing.as_ref().map(|(name, _)| name.clone());
    let extensions = Extensions {
        backing_format: options.backing.as_ref().and_then(|(_, format)| format.clone()),
        data_file: options.data_file.clone(),
        ..Extensions::default()
    };
    let metadata = Metadata {
        header: options.header(),
        extensions,
        backing_file,
        snapshots: Vec::new(),
        bitmaps: Vec::new(),
        luks: None,
    };
    let first = metadata.first_cluster()?;
    let cluster = options.cluster_size;
    file.truncate(0, Preallocation::Off).await?;
    // Header, refcount table, and a block that counts these three: an empty disk, which then gets its length.
    let mut bytes = vec![0; 3 * cluster as usize];
    bytes[..first.len()].copy_from_slice(&first);
    bytes[cluster as usize..][..8].copy_from_slice(&(2 * cluster).to_be_bytes());
    let bits = options.refcount_bits as usize;
    for index in 0..3 {
        let block = &mut bytes[2 * cluster as usize..];
        match bits {
            1..8 => block[index * bits / 8] |= 1 << (index * bits % 8),
            _ => block[(index + 1) * bits / 8 - 1] = 1,
        }
    }
    file.write_bytes(0, &bytes).await?;
    let image = Qcow2::open(Files { file, backing: None, data_file }, metadata, ImageUse::default()).await?;
    image.truncate(options.size, options.preallocation).await?;
    image.close().await
}
