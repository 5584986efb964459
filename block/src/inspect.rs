//! What an image file is, without using it as a disk.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::neighbours::{Neighbours, identity};
use crate::open::open_in;
use crate::{
    Error, FileOptions, HostFile, ImageOptions, Node, Sharing, bochs, cloop, dmg, host_words, parallels, qcow, qcow2,
    vdi, vhdx, vmdk, vpc,
};

/// How many of the first bytes tell a format.
const PROBED: u64 = 512;
/// What lengths are rounded up to.
const SECTOR: u64 = 512;
/// What POSIX counts a file's room in.
const BLOCK: u64 = 512;
/// Most images of a backing chain.
const MOST_IN_CHAIN: usize = 256;

/// Whether the first bytes of a file are those of a format.
type Probe = fn(&[u8]) -> bool;

/// A format of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file's bytes are the disk's.
    Raw,
    /// [`qcow2`].
    Qcow2,
    /// [`qcow`].
    Qcow,
    /// [`vdi`].
    Vdi,
    /// [`vhdx`].
    Vhdx,
    /// [`vmdk`].
    Vmdk,
    /// [`vpc`].
    Vpc,
    /// [`parallels`].
    Parallels,
    /// [`bochs`].
    Bochs,
    /// [`cloop`].
    Cloop,
    /// [`dmg`].
    Dmg,
}

impl Format {
    /// The formats that are known, by name.
    pub const ALL: [(&str, Format); 11] = [
        ("raw", Format::Raw),
        ("qcow2", Format::Qcow2),
        ("qcow", Format::Qcow),
        ("vdi", Format::Vdi),
        ("vhdx", Format::Vhdx),
        ("vmdk", Format::Vmdk),
        ("vpc", Format::Vpc),
        ("parallels", Format::Parallels),
        ("bochs", Format::Bochs),
        ("cloop", Format::Cloop),
        ("dmg", Format::Dmg),
    ];

    /// What tells each format from its first bytes. No image looks like two of them.
    const PROBES: [(Probe, Format); 9] = [
        (qcow2::Metadata::probe, Format::Qcow2),
        (qcow::probe, Format::Qcow),
        (vdi::probe, Format::Vdi),
        (vhdx::probe, Format::Vhdx),
        (vmdk::probe, Format::Vmdk),
        (vpc::probe, Format::Vpc),
        (parallels::probe, Format::Parallels),
        (bochs::probe, Format::Bochs),
        (cloop::probe, Format::Cloop),
    ];

    /// The format with a name.
    pub fn named(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, format)| format)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Format::ALL.into_iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// The names of all, for messages.
    pub fn names() -> String {
        Format::ALL.map(|(name, _)| name).join(", ")
    }

    /// The format that a file looks like.
    pub async fn probe(file: &Node) -> Result<Format, Error> {
        let start = file.read_vec(0, PROBED.min(file.length()) as usize).await?;
        Ok(Format::probe_bytes(&start))
    }

    /// The format that the first bytes of a file look like.
    pub(crate) fn probe_bytes(start: &[u8]) -> Format {
        let found = Format::PROBES.into_iter().find(|(looks_like, _)| looks_like(start));
        found.map_or(Format::Raw, |(_, format)| format)
    }

    /// The format that a file of this name looks like.
    pub(crate) async fn probe_named(path: &Path, file: &Node) -> Result<Format, Error> {
        let found = Format::probe(file).await?;
        Ok(if found == Format::Raw && dmg::probe_name(path) { Format::Dmg } else { found })
    }
}

/// What is known of an image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its file.
    pub path: PathBuf,
    /// Its format, as the user, an image above it, or its first bytes say.
    pub format: Format,
    /// Length of the disk, bytes.
    pub virtual_size: u64,
    /// Length of the file, in whole sectors, bytes.
    pub file_length: u64,
    /// What the file takes on the host's file system, bytes; `None` where the host does not say, as of block devices.
    pub actual_size: Option<u64>,
    /// What the image says of itself.
    pub qcow2: Option<qcow2::Metadata>,
    /// The same of an image of the first version.
    pub qcow: Option<qcow::Header>,
    /// The same of an image of VMware.
    pub vmdk: Option<vmdk::Info>,
    /// Files with parts of the disk, in their order, where they are not `path`.
    pub parts: Vec<Part>,
    /// What is given room at once, bytes; `None` where this is not told.
    pub cluster_size: Option<u64>,
}

/// A file with a part of a disk.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where it is.
    pub path: PathBuf,
    /// Its length, in whole sectors, bytes.
    pub length: u64,
    /// What it takes on the host's file system, bytes.
    pub actual_size: u64,
}

impl Part {
    fn of(path: &Path) -> Result<Part, Error> {
        let metadata = std::fs::metadata(path);
        let failed = |error| Error::Open { name: path.display().to_string(), why: host_words(&error) };
        let metadata = metadata.map_err(failed)?;
        let length = metadata.len().next_multiple_of(SECTOR);
        Ok(Part { path: path.to_owned(), length, actual_size: metadata.blocks() * BLOCK })
    }
}

impl Image {
    /// Looks at the image in a file; its format is found out unless it is given.
    pub async fn inspect(path: &Path, format: Option<Format>, sharing: Sharing) -> Result<Image, Error> {
        let failed = |why: String| Error::Open { name: path.display().to_string(), why };
        let metadata = std::fs::metadata(path).map_err(|error| failed(host_words(&error)))?;
        let options = FileOptions { read_only: true, sharing, ..FileOptions::default() };
        let file = Node::new("file", HostFile::open(path, options)?);
        let format = match format {
            Some(format) => format,
            None => Format::probe_named(path, &file).await.map_err(|error| failed(error.to_string()))?,
        };
        let file_length = file.length().next_multiple_of(SECTOR);
        let (mut qcow2, mut qcow, mut vmdk, mut parts) = (None, None, None, Vec::new());
        let (virtual_size, cluster_size) = match format {
            Format::Raw => (file_length, None),
            Format::Qcow2 => {
                let read = qcow2::Metadata::read(&file).await;
                let metadata = read.map_err(|error| failed(Error::from(error).to_string()))?;
                let header = &qcow2.insert(metadata).header;
                (header.size, Some(header.cluster_size()))
            }
            Format::Qcow => {
                let read = qcow::Header::read(&file).await.map_err(|error| error.while_opening(path))?;
                let header = qcow.insert(read);
                (header.size, Some(1 << header.cluster_bits))
            }
            _ => {
                let options = ImageOptions { file: options, no_backing: true, ..ImageOptions::default() };
                let opened = open_in(file, Some(format), Neighbours::of(path, options)).await;
                let node = opened.map_err(|error| error.while_opening(path))?;
                vmdk = node.driver_as::<vmdk::Vmdk>().and_then(vmdk::Vmdk::info);
                let extents = vmdk.iter().flat_map(|info: &vmdk::Info| &info.extents);
                let others = extents.filter_map(|extent| extent.path.as_deref()).filter(|part| *part != path);
                parts = others.map(Part::of).collect::<Result<_, _>>()?;
                // QEMU does not tell it of this format.
                (node.length(), node.driver().block_size().filter(|_| format != Format::Parallels))
            }
        };
        Ok(Image {
            path: path.to_owned(),
            format,
            virtual_size,
            file_length,
            actual_size: metadata.file_type().is_file().then(|| metadata.blocks() * BLOCK),
            qcow2,
            qcow,
            vmdk,
            parts,
            cluster_size,
        })
    }

    /// The image and those behind it, the frontmost first.
    pub async fn inspect_chain(path: &Path, format: Option<Format>, sharing: Sharing) -> Result<Vec<Image>, Error> {
        let mut chain = vec![Image::inspect(path, format, sharing).await?];
        let mut seen = vec![identity(path)];
        while let Some(backing) = chain.last().and_then(Image::backing_path) {
            let failed = |why: String| Error::Open { name: backing.display().to_string(), why };
            let identity = identity(&backing);
            if seen.contains(&identity) || chain.len() >= MOST_IN_CHAIN {
                return Err(failed("it stands behind itself, or behind too many others".into()));
            }
            seen.push(identity);
            let format = match chain.last().and_then(Image::backing_format) {
                None => None,
                Some(name) => {
                    let unknown =
                        || failed(format!("its format is said to be {name:?}; known are {}", Format::names()));
                    Some(Format::named(name).ok_or_else(unknown)?)
                }
            };
            chain.push(Image::inspect(&backing, format, sharing).await?);
        }
        Ok(chain)
    }

    /// Name of the backing file, as the image has it.
    pub fn backing_name(&self) -> Option<&str> {
        let of_qcow2 = self.qcow2.as_ref().and_then(|metadata| metadata.backing_file.as_deref());
        let of_qcow = self.qcow.as_ref().and_then(|header| header.backing_file.as_deref());
        of_qcow2.or(of_qcow).or(self.vmdk.as_ref().and_then(|info| info.parent.as_deref()))
    }

    /// The format that the image says its backing file has.
    pub fn backing_format(&self) -> Option<&str> {
        match &self.vmdk {
            Some(info) => info.parent.as_ref().map(|_| Format::Vmdk.name()),
            None => self.qcow2.as_ref()?.extensions.backing_format.as_deref(),
        }
    }

    /// The backing file: a relative name is meant from the folder of the image.
    pub fn backing_path(&self) -> Option<PathBuf> {
        let name = self.backing_name()?;
        Some(self.path.parent().unwrap_or(Path::new("")).join(name))
    }

    /// Data is encrypted.
    pub fn is_encrypted(&self) -> bool {
        let encryption = self.qcow2.as_ref().map(|metadata| metadata.header.encryption);
        encryption.is_some_and(|encryption| encryption != qcow2::Encryption::None)
    }
}
