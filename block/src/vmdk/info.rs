//! What an image says of itself.

use std::path::PathBuf;

use super::Vmdk;

/// What is known of an image, besides its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Identifier of what is on the disk.
    pub cid: u32,
    /// Identifier of what was on the disk behind when the image was made; [`u32::MAX`]: there is none.
    pub parent_cid: u32,
    /// Name of the image behind, as the image has it.
    pub parent: Option<String>,
    /// Its kind, as `createType` has it.
    pub create_type: String,
    /// The parts of the disk.
    pub extents: Vec<ExtentInfo>,
}

/// What is known of a part of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentInfo {
    /// Its file; `None`: it is zeros.
    pub path: Option<PathBuf>,
    /// Its length, bytes of the disk.
    pub length: u64,
    /// What the descriptor says of its form; empty where it has the image's only file.
    pub form: &'static str,
    /// Bytes of a grain; `None`: it has none.
    pub grain: Option<u64>,
    /// Its grains are compressed.
    pub is_compressed: bool,
}

impl Vmdk {
    /// What the image says of itself, if it has a descriptor.
    pub(crate) fn info(&self) -> Option<Info> {
        let (_, descriptor) = self.descriptor.as_ref()?;
        let parent = descriptor.parent.as_ref();
        Some(Info {
            cid: descriptor.cid,
            parent_cid: parent.map_or(u32::MAX, |parent| parent.cid),
            parent: parent.map(|parent| parent.name.clone()),
            create_type: descriptor.create_type.clone(),
            extents: self.extents.iter().map(|extent| extent.info.clone()).collect(),
        })
    }
}
