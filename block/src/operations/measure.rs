//! How long the file of an image would be.

use std::sync::Arc;

use super::chain::resolve;
use super::{SECTOR, length_in_sectors};
use crate::{Error, Format, Node, OptionValues};

/// Lengths of the file of an image that is not made yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// With the data that there is, bytes.
    pub required: u64,
    /// With data everywhere, bytes.
    pub fully_allocated: u64,
}

/// Measures an image of a format with options, of `size` bytes, with the data of `source` if it is given (whose length counts then).
pub async fn measure(
    format: Format,
    values: &OptionValues,
    size: u64,
    source: Option<&Arc<Node>>,
) -> Result<Measure, Error> {
    let size = source.map_or(size, |node| length_in_sectors(node));
    let size = size.checked_next_multiple_of(SECTOR).unwrap_or(size);
    match format {
        Format::Raw => Ok(Measure { required: size, fully_allocated: size }),
        Format::Qcow2 => {
            let cluster = values.number("cluster_size").unwrap_or(65536);
            if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
                let text = "Cluster size must be a power of two between 512 and 2048k";
                return Err(Error::Unsupported(text.into()));
            }
            let bits = values.number("refcount_bits").unwrap_or(16);
            if !bits.is_power_of_two() || bits > 64 {
                let text = "Refcount width must be a power of two and may not exceed 64 bits";
                return Err(Error::Unsupported(text.into()));
            }
            let entry = if values.is_on("extended_l2") { 16 } else { 8 };
            let metadata = qcow2_metadata(size, cluster, entry, bits);
            let all = size.next_multiple_of(cluster);
            let has_all = matches!(values.text("preallocation"), Some("falloc" | "full"));
            let data = match source {
                _ if has_all => all,
                None => 0,
                Some(node) => clusters_with_data(node, cluster).await? * cluster,
            };
            Ok(Measure { required: metadata + data, fully_allocated: metadata + all })
        }
        other => Err(Error::Unsupported(format!("Block driver '{}' does not support size measurement", other.name()))),
    }
}

/// Bytes of a qcow2 image's metadata if all its clusters have data.
fn qcow2_metadata(size: u64, cluster: u64, entry: u64, refcount_bits: u64) -> u64 {
    let data = size.div_ceil(cluster);
    let tables = data.div_ceil(cluster / entry);
    let level_1 = (tables * 8).div_ceil(cluster);
    // The header, and what is found through it.
    let counted = 1 + level_1 + tables + data;
    let per_block = cluster * 8 / refcount_bits;
    // Blocks of reference counts, and their table, count themselves.
    let (mut blocks, mut table) = (0, 0);
    loop {
        let (more_blocks, more_table) =
            ((counted + blocks + table).div_ceil(per_block), (blocks * 8).div_ceil(cluster).max(1));
        if (more_blocks, more_table) == (blocks, table) {
            return (counted - data + blocks + table) * cluster;
        }
        (blocks, table) = (more_blocks, more_table);
    }
}

/// How many clusters of a copy of this disk have data.
async fn clusters_with_data(disk: &Arc<Node>, cluster: u64) -> Result<u64, Error> {
    let length = length_in_sectors(disk);
    // The first cluster that is not counted yet.
    let (mut at, mut next, mut count) = (0, 0, 0);
    while at < length {
        let found = resolve(disk, at, length - at).await?;
        let end = at + found.length;
        if !found.kind.is_zero() {
            let first = (at / cluster).max(next);
            next = end.div_ceil(cluster).max(next);
            count += next.saturating_sub(first);
        }
        at = end;
    }
    Ok(count)
}
