//! What an image file is, without using it as a disk.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::qcow2;
use crate::{Error, FileOptions, HostFile, Node, Sharing, host_words};

/// How many of the first bytes tell a format.
const PROBED: u64 = 512;
/// What lengths are rounded up to.
const SECTOR: u64 = 512;
/// Most images of a backing chain.
const MOST_IN_CHAIN: usize = 256;

/// A format of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The file's bytes are the disk's.
    Raw,
    /// [`qcow2`].
    Qcow2,
}

impl Format {
    /// The formats that are known, by name.
    pub const ALL: [(&str, Format); 2] = [("raw", Format::Raw), ("qcow2", Format::Qcow2)];

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
        Ok(if qcow2::Metadata::probe(&start) { Format::Qcow2 } else { Format::Raw })
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
            None => Format::probe(&file).await.map_err(|error| failed(error.to_string()))?,
        };
        let qcow2 = match format {
            Format::Raw => None,
            Format::Qcow2 => {
                let read = qcow2::Metadata::read(&file).await;
                Some(read.map_err(|error| failed(Error::from(error).to_string()))?)
            }
        };
        let file_length = file.length().next_multiple_of(SECTOR);
        Ok(Image {
            path: path.to_owned(),
            format,
            virtual_size: qcow2.as_ref().map_or(file_length, |metadata| metadata.header.size),
            file_length,
            // POSIX counts in this.
            actual_size: metadata.file_type().is_file().then(|| metadata.blocks() * 512),
            qcow2,
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
        self.qcow2.as_ref()?.backing_file.as_deref()
    }

    /// The format that the image says its backing file has.
    pub fn backing_format(&self) -> Option<&str> {
        self.qcow2.as_ref()?.extensions.backing_format.as_deref()
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

/// The same for each name of a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
