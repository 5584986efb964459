//! Header extensions, and the backing file's name behind them.

use super::header::Header;
use super::{MetadataError, bitmaps};
use crate::fields::{FieldError, Fields};

/// Most bytes of the backing file's name.
const MOST_NAME: u32 = 1023;

pub(super) const END: u32 = 0;
pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
pub(super) const BITMAPS: u32 = 0x2385_2875;
pub(super) const ENCRYPTION_HEADER: u32 = 0x0537_be77;
pub(super) const DATA_FILE: u32 = 0x4441_5441;

/// Bytes of an entry of the table of feature names.
pub(super) const FEATURE_NAME: usize = 48;

/// What the header extensions say. Those that are not known are kept, as the format asks for.
#[derive(Clone, Debug, Default)]
pub struct Extensions {
    /// Format of the backing file.
    pub backing_format: Option<String>,
    /// Name of the file that has the data.
    pub data_file: Option<String>,
    /// Where the encryption's header is in the file, and its length in bytes.
    pub encryption_header: Option<(u64, u64)>,
    /// Where the bitmaps are.
    pub(super) bitmaps: Option<bitmaps::Directory>,
    /// Those that are not known: type and content.
    pub(super) unknown: Vec<(u32, Vec<u8>)>,
    /// Names of features: type (0: incompatible), bit and name.
    pub(super) feature_names: Vec<(u8, u8, String)>,
}

/// Reads the extensions and the backing file's name from the first cluster.
pub(super) fn read(header: &Header, first_cluster: &[u8]) -> Result<(Extensions, Option<String>), MetadataError> {
    let backing_file = backing_file(header, first_cluster)?;
    let end = match header.backing_file {
        (0, _) => first_cluster.len(),
        (offset, _) => offset as usize,
    };
    let mut fields = Fields::new("the area of header extensions", first_cluster.get(..end).unwrap_or(first_cluster));
    fields.bytes("header", header.length as usize)?;
    let mut extensions = Extensions::default();
    // Old images end without an end.
    while fields.left() >= 8 {
        let kind = fields.u32("type")?;
        let length = fields.u32("length")?;
        if kind == END {
            break;
        }
        let mut content = Fields::new("a header extension", fields.bytes("data", length as usize)?);
        fields.align(8);
        let length = length as usize;
        match kind {
            BACKING_FORMAT => extensions.backing_format = Some(content.text("backing file format name", length)?),
            DATA_FILE => extensions.data_file = Some(content.text("external data file name", length)?),
            ENCRYPTION_HEADER => {
                let (offset, length) =
                    (content.u64("encryption header offset")?, content.u64("encryption header length")?);
                extensions.encryption_header = Some((offset, length));
            }
            BITMAPS => extensions.bitmaps = Some(bitmaps::Directory::read(&mut content)?),
            FEATURE_NAMES => {
                for _ in 0..length / FEATURE_NAME {
                    let (kind, bit) = (content.u8("feature type")?, content.u8("feature bit")?);
                    let name = content.padded_text("feature name", FEATURE_NAME - 2)?;
                    extensions.feature_names.push((kind, bit, name));
                }
            }
            _ => extensions.unknown.push((kind, content.bytes("data", length)?.to_vec())),
        }
    }
    extensions.check_features(header)?;
    if extensions.data_file.is_some() && !header.has_data_file() {
        // Who wrote last did not know it, and has put data into this file.
        extensions.data_file = None;
    }
    Ok((extensions, backing_file))
}

fn backing_file(header: &Header, first_cluster: &[u8]) -> Result<Option<String>, FieldError> {
    let (offset, length) = header.backing_file;
    if offset == 0 {
        return Ok(None);
    }
    if length > MOST_NAME {
        return Err(FieldError::value("backing_file_size", length, format!("it must be at most {MOST_NAME}")));
    }
    let place = usize::try_from(offset).ok().filter(|offset| *offset as u64 >= header.length);
    let Some(name) = place.and_then(|offset| first_cluster.get(offset..)?.get(..length as usize)) else {
        let valid = "the name must be behind the header in the first cluster of the file";
        return Err(FieldError::value("backing_file_offset", offset, valid));
    };
    Fields::new("the backing file's name", name).text("the backing file's name", name.len()).map(Some)
}

impl Extensions {
    /// Refuses an image that uses what is not known here.
    fn check_features(&self, header: &Header) -> Result<(), MetadataError> {
        let unknown = header.unknown_features();
        if unknown == 0 {
            return Ok(());
        }
        let names = (0..64).filter(|bit| unknown >> bit & 1 != 0).map(|bit| {
            let named = self.feature_names.iter().find(|(kind, named, _)| (*kind, *named) == (0, bit));
            named.map_or_else(|| format!("incompatible feature bit {bit}"), |(_, _, name)| name.clone())
        });
        Err(MetadataError::Features(names.collect::<Vec<_>>().join(", ")))
    }
}
