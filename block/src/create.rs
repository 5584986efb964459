//! New images.

use std::fs::File;
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::driver::{Driver, Preallocation};
use crate::options::FormatOption as Of;
use crate::{Error, FileOptions, Format, FormatOption, HostFile, OptionValues, host_words};

/// Options of images in files, whatever their format.
const FILE: &[FormatOption] = &[
    Of::size("size", "length of the disk"),
    Of::switch("nocow", "on: the file's bytes are overwritten in place (btrfs only)"),
    Of::text("preallocation", "what is made ready: off, falloc or full"),
    Of::size("extent_size_hint", "room that the file system is asked to give at once; 0: as it likes"),
];

const RAW: &[FormatOption] = &[Of::size("size", "length of the disk")];

const QCOW2: &[FormatOption] = &[
    Of::switch("encryption", "on: encrypted by AES, as encrypt.format=aes"),
    Of::text("encrypt.format", "how data is encrypted: aes or luks"),
    Of::text("encrypt.key-secret", "ID of the secret with the passphrase"),
    Of::text("encrypt.cipher-alg", "cipher"),
    Of::text("encrypt.cipher-mode", "mode of the cipher"),
    Of::text("encrypt.ivgen-alg", "what makes initialization vectors"),
    Of::text("encrypt.ivgen-hash-alg", "hash for the initialization vectors"),
    Of::text("encrypt.hash-alg", "hash for keys"),
    Of::number("encrypt.iter-time", "milliseconds that to make a key of a passphrase takes"),
    Of::size("cluster_size", "bytes of a cluster").or("65536"),
    Of::switch("extended_l2", "on: parts of clusters are there or not, each").or("off"),
    Of::text("preallocation", "what is made ready: off, metadata, falloc or full"),
    Of::text("compression_type", "how clusters are compressed: zlib or zstd").or("zlib"),
    Of::size("size", "length of the disk"),
    Of::text("compat", "version: 0.10 (v2) or 1.1 (v3)"),
    Of::text("backing_file", "image behind this one"),
    Of::text("backing_fmt", "format of the image behind this one"),
    Of::text("data_file", "file with the data, apart from the metadata"),
    Of::switch("data_file_raw", "on: the file with the data is also a raw image"),
    Of::switch("lazy_refcounts", "on: reference counts are written later").or("off"),
    Of::number("refcount_bits", "bits of a reference count").or("16"),
];

impl Format {
    /// The options that its new images have, in the order in which they are shown; `None` if none can be made.
    pub fn create_options(self) -> Option<&'static [FormatOption]> {
        match self {
            Format::Raw => Some(RAW),
            Format::Qcow2 => Some(QCOW2),
        }
    }

    /// The options of its new images in files: its own, and then those of the file.
    pub fn create_options_in_file(self) -> Option<Vec<FormatOption>> {
        let mut options = self.create_options()?.to_vec();
        for option in FILE {
            if !options.iter().any(|own| own.name == option.name) {
                options.push(*option);
            }
        }
        Some(options)
    }
}

/// Makes a new image in a file, whose former content is lost, and closes it.
///
/// A file that this made is not there if it fails.
pub async fn create(path: &Path, format: Format, values: &OptionValues) -> Result<(), Error> {
    if values.number("extent_size_hint").is_some_and(|hint| hint != 0) {
        return Err(Error::Unsupported("extent_size_hint is not built yet; 0 asks for none".into()));
    }
    let size = values.number("size").unwrap_or(0);
    let preallocation = preallocation(values)?;
    match format {
        Format::Raw => {
            if preallocation == Preallocation::Metadata {
                return Err(Error::Unsupported("Unsupported preallocation mode: metadata".into()));
            }
            let file = NewFile::make(path, values.is_on("nocow"))?;
            let done = fill(&file.protocol, size, preallocation).await;
            file.keep_if(done)
        }
        Format::Qcow2 => Err(Error::Unsupported("new images in format qcow2 are not built yet".into())),
    }
}

fn preallocation(values: &OptionValues) -> Result<Preallocation, Error> {
    let Some(name) = values.text("preallocation") else { return Ok(Preallocation::Off) };
    let known = Preallocation::ALL.into_iter().find(|(known, _)| *known == name);
    known.map(|(_, mode)| mode).ok_or_else(|| Error::Unsupported(format!("invalid parameter value: {name}")))
}

async fn fill(file: &HostFile, size: u64, preallocation: Preallocation) -> Result<(), Error> {
    file.truncate(size, preallocation).await.map_err(|error| match error {
        Error::Host { source, .. } if source.raw_os_error() == Some(libc::EFBIG) => {
            Error::Unsupported("The image size is too large for file format 'raw'".into())
        }
        Error::Host { source, .. } => Error::Unsupported(format!("Could not resize file: {}", host_words(&source))),
        other => other,
    })
}

/// A file of a new image, which goes again unless it is kept.
struct NewFile<'a> {
    path: &'a Path,
    protocol: HostFile,
    /// It was not there before.
    is_new: bool,
}

impl NewFile<'_> {
    fn make(path: &Path, no_copies: bool) -> Result<NewFile<'_>, Error> {
        let failed = |why: String| Error::Create { name: path.display().to_string(), why };
        let host = |error: std::io::Error| failed(host_words(&error));
        let metadata = std::fs::metadata(path).ok();
        // To open a FIFO may take for ever.
        if metadata.as_ref().is_some_and(is_fifo) {
            return Err(failed("it is a FIFO, which has no bytes at any place".into()));
        }
        let is_file = metadata.as_ref().is_none_or(|metadata| metadata.is_file());
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(is_file).open(path).map_err(host)?;
        if no_copies {
            // File systems without such a flag do not copy either.
            let _ = ioctl_getflags(&file).and_then(|flags| ioctl_setflags(&file, flags | IFlags::NOCOW));
        }
        let protocol = HostFile::from_file(file, FileOptions::default()).map_err(host)?;
        Ok(NewFile { path, protocol, is_new: metadata.is_none() })
    }

    fn keep_if<T>(self, done: Result<T, Error>) -> Result<T, Error> {
        if done.is_err() && self.is_new {
            // That it could not be made is what the user must know.
            let _ = std::fs::remove_file(self.path);
        }
        done
    }
}

fn is_fifo(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&metadata.file_type())
}
