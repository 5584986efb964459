//! Changing what an image is like, after it was made.

use super::entries::Cluster;
use super::header::{CompressionType, Incompatible, V2_LENGTH, V3_HEADER};
use super::image::Qcow2;
use super::write::clusters;
use super::{Header, Metadata};
use crate::driver::{Driver, Preallocation};
use crate::{Error, IoVector};

/// Where the header has the compatible features.
const COMPATIBLE_AT: u64 = 80;
/// Bytes that are written all or not at all.
const SECTOR: usize = 512;
/// Bytes of a snapshot's extra data that version 3 asks for.
const EXTRA: usize = 16;

/// What is to change; `None`: it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AmendOptions {
    /// The version, 2 or 3.
    pub version: Option<u32>,
    /// Reference counts are written later.
    pub lazy_refcounts: Option<bool>,
    /// Bits of a reference count.
    pub refcount_bits: Option<u64>,
    /// Length of the disk, bytes, a multiple of 512.
    pub size: Option<u64>,
}

fn refused<T>(text: &str) -> Result<T, Error> {
    Err(Error::Unsupported(text.into()))
}

impl Qcow2 {
    /// Changes the image, which nobody else uses meanwhile, and which is closed and opened anew before it is used further.
    ///
    /// What cannot be is refused before anything changes. If this is interrupted, the image is sound: it has some of the changes.
    pub async fn amend(&self, options: &AmendOptions) -> Result<(), Error> {
        self.flush_all().await?;
        let metadata = self.metadata().await;
        let before = metadata.header.version;
        let version = options.version.unwrap_or(before);
        if options.lazy_refcounts == Some(true) && version < 3 {
            return refused(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
            );
        }
        if let Some(bits) = options.refcount_bits {
            if !bits.is_power_of_two() || bits > 64 {
                return refused("Refcount width must be a power of two and may not exceed 64 bits");
            }
            if version < 3 && bits != 16 {
                return refused(
                    "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or \
                     greater)",
                );
            }
            if bits != u64::from(metadata.header.refcount_bits()) {
                return refused("to amend refcount_bits is not built yet");
            }
        }
        if version < before {
            check_downgrade(&metadata)?;
            self.refuse_zstd_data().await?;
        }
        if version > before && metadata.snapshots.iter().any(|snapshot| snapshot.extra.len() < EXTRA) {
            return refused("to amend compat of an image with snapshots in their oldest form is not built yet");
        }
        if version > before {
            self.change_version(version).await?;
        }
        if let (Some(is_lazy), 3) = (options.lazy_refcounts, version) {
            self.set_lazy_refcounts(is_lazy).await?;
        }
        if let Some(size) = options.size.filter(|size| *size != self.length()) {
            self.truncate(size, Preallocation::Off).await?;
        }
        if version < before {
            self.replace_zero_clusters().await?;
            self.flush_all().await?;
            self.change_version(version).await?;
        }
        Ok(())
    }

    /// Refuses compressed data that version 2 has no name for.
    async fn refuse_zstd_data(&self) -> Result<(), Error> {
        let (mut at, length) = (0, self.length());
        while at < length && self.compression == CompressionType::Zstd {
            let status = self.status_of(at, length - at).await?;
            if status.is_compressed {
                return refused(
                    "Cannot downgrade an image with zstd compression type and existing compressed clusters",
                );
            }
            at += status.length;
        }
        Ok(())
    }

    async fn set_lazy_refcounts(&self, is_lazy: bool) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        state.check_writable()?;
        let header = &mut state.metadata.header;
        let others = header.compatible_features & !Header::LAZY_REFCOUNTS;
        header.compatible_features = if is_lazy { others | Header::LAZY_REFCOUNTS } else { others };
        let features = header.compatible_features.to_be_bytes();
        state.file.write_bytes(COMPATIBLE_AT, &features).await?;
        state.file.flush().await
    }

    /// Gives what is said to be zero a form that version 2 has: none, or, where something is behind it, data.
    async fn replace_zero_clusters(&self) -> Result<(), Error> {
        let (cluster, length) = (self.layout.cluster(), self.length());
        let covered = self.backing.node().map_or(0, |backing| backing.length());
        let mut at = 0;
        while at < length {
            let status = self.status_of(at, length - at).await?;
            let end = at + status.length;
            if status.is_here && status.kind.is_zero() {
                for (start, part) in clusters(at, status.length, cluster) {
                    if start < covered {
                        self.write_disk(start, IoVector::zeroed(part as usize)).await?;
                        continue;
                    }
                    let _turn = self.requests.exclusive(start..start + cluster).await;
                    let mut state = self.state.lock().await;
                    state.check_writable()?;
                    state.set_cluster(start, Cluster::NONE).await?;
                    self.keep_changes_few(&mut state).await?;
                }
            }
            at = end;
        }
        Ok(())
    }

    /// Writes the header in the form of a version: in one sector, so that there is the one or the other.
    async fn change_version(&self, version: u32) -> Result<(), Error> {
        let _turn = self.requests.exclusive(0..u64::MAX).await;
        let mut state = self.state.lock().await;
        state.check_writable()?;
        let mut stored = Metadata::read(&state.file).await?;
        stored.header.version = version;
        stored.header.length = if version < 3 { V2_LENGTH } else { V3_HEADER };
        if version < 3 {
            stored.header.compatible_features = 0;
            stored.header.autoclear_features = 0;
            stored.header.incompatible_features = 0;
            stored.header.compression = CompressionType::Zlib;
        }
        let mut bytes = stored.first_cluster()?;
        if bytes.len() > SECTOR {
            // Programs do without the names of features.
            bytes = stored.first_cluster_without_names()?;
        }
        if bytes.len() > SECTOR {
            return refused("the backing file's name and the header extensions are too long for the version to change");
        }
        bytes.resize(SECTOR, 0);
        state.file.write_bytes(0, &bytes).await?;
        state.file.flush().await?;
        // Nothing points to what stood behind.
        let rest = self.layout.cluster() - SECTOR as u64;
        state.file.write_zeroes(SECTOR as u64, rest, crate::ZeroFlags::empty()).await?;
        state.file.flush().await?;
        state.metadata.header = stored.header;
        Ok(())
    }
}

/// Refuses version 2 for an image that has what it does not know.
fn check_downgrade(metadata: &Metadata) -> Result<(), Error> {
    let header = &metadata.header;
    if header.has_data_file() {
        return refused("Cannot downgrade an image with a data file");
    }
    let others = header.incompatible_features & !(Incompatible::DIRTY | Incompatible::COMPRESSION);
    if others != 0 {
        let text = format!("Cannot downgrade an image with incompatible features {others:#x} set");
        return refused(&text);
    }
    if header.refcount_bits() != 16 {
        return refused("compat=0.10 requires refcount_bits=16");
    }
    if !metadata.snapshots.is_empty() || metadata.extensions.bitmaps.is_some() {
        return refused("to amend compat of an image with snapshots or bitmaps to 0.10 is not built yet");
    }
    Ok(())
}
