//! New images.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::driver::{Driver, Preallocation};
use crate::operations::SECTOR;
use crate::options::FormatOption as Of;
use crate::{Error, FileOptions, Format, FormatOption, HostFile, Node, OptionValues, host_words, qcow2};

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
            // They are made by their modules, and not by their names yet.
            Format::Qcow | Format::Vdi | Format::Vhdx | Format::Vmdk | Format::Vpc | Format::Parallels => None,
            Format::Bochs | Format::Cloop | Format::Dmg => None,
        }
    }

    /// Its images may have compressed data.
    pub fn has_compression(self) -> bool {
        match self {
            Format::Qcow2 | Format::Qcow | Format::Vmdk => true,
            Format::Raw | Format::Vdi | Format::Vhdx | Format::Vpc | Format::Parallels => false,
            Format::Bochs | Format::Cloop | Format::Dmg => false,
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
    match format {
        Format::Raw => {
            let (size, preallocation) = (values.number("size").unwrap_or(0), preallocation(values)?);
            // Longer ones the host refuses.
            let size = size.checked_next_multiple_of(SECTOR).unwrap_or(size);
            if preallocation == Preallocation::Metadata {
                return Err(Error::Unsupported("Unsupported preallocation mode: metadata".into()));
            }
            let (file, protocol) = NewFile::make(path, values)?;
            file.keep_if(fill(&protocol, size, preallocation).await)
        }
        Format::Qcow2 => {
            let options = qcow2_options(values)?;
            let (file, protocol) = NewFile::make(path, values)?;
            let done = async {
                let data = match &options.data_file {
                    Some(name) => Some(NewFile::make(&path.parent().unwrap_or(Path::new("")).join(name), values)?),
                    None => None,
                };
                let (data_file, data_protocol) = data.unzip();
                let data_node = data_protocol.map(|protocol| Node::new("data-file", protocol));
                let done = qcow2::create(Node::new("file", protocol), data_node, &options).await;
                match data_file {
                    Some(data_file) => data_file.keep_if(done),
                    None => done,
                }
            };
            let done = done.await;
            file.keep_if(done)
        }
        other => {
            let text = format!("new images of format '{}' are not built", other.name());
            Err(Error::Unsupported(text))
        }
    }
}

/// The options of a new qcow2 image.
fn qcow2_options(values: &OptionValues) -> Result<qcow2::CreateOptions, Error> {
    let unsupported = |text: String| Err(Error::Unsupported(text));
    if values.is_on("encryption") || values.text("encrypt.format").is_some() {
        return unsupported("encrypted qcow2 images are not built".into());
    }
    let version = match values.text("compat") {
        Some("0.10" | "v2") => 2,
        None | Some("1.1" | "v3") => 3,
        Some(other) => return unsupported(format!("Parameter 'version' does not accept value '{other}'")),
    };
    let compression = match values.text("compression_type") {
        None | Some("zlib") => qcow2::CompressionType::Zlib,
        Some("zstd") => qcow2::CompressionType::Zstd,
        Some(other) => return unsupported(format!("Parameter 'compression-type' does not accept value '{other}'")),
    };
    let backing_format = values.text("backing_fmt").map(str::to_owned);
    if values.text("backing_file").is_none() && backing_format.is_some() {
        return unsupported("Backing format cannot be used without backing file".into());
    }
    let size = values.number("size").unwrap_or(0);
    let whole = size.checked_next_multiple_of(SECTOR);
    let Some(size) = whole else { return unsupported("The image size is too large for file format 'qcow2'".into()) };
    Ok(qcow2::CreateOptions {
        size,
        version,
        cluster_size: values.number("cluster_size").unwrap_or(65536),
        refcount_bits: values.number("refcount_bits").and_then(|bits| u32::try_from(bits).ok()).unwrap_or(u32::MAX),
        compression,
        extended_l2: values.is_on("extended_l2"),
        lazy_refcounts: values.is_on("lazy_refcounts"),
        backing: values.text("backing_file").map(|name| (name.to_owned(), backing_format)),
        data_file: values.text("data_file").map(str::to_owned),
        data_file_raw: values.is_on("data_file_raw"),
        preallocation: preallocation(values)?,
    })
}

fn preallocation(values: &OptionValues) -> Result<Preallocation, Error> {
    let Some(name) = values.text("preallocation") else { return Ok(Preallocation::Off) };
    let known = Preallocation::ALL.into_iter().find(|(known, _)| *known == name);
    known.map(|(_, mode)| mode).ok_or_else(|| Error::Unsupported(format!("invalid parameter value: {name}")))
}

async fn fill(file: &HostFile, size: u64, preallocation: Preallocation) -> Result<(), Error> {
    file.truncate(0, Preallocation::Off).await?;
    file.truncate(size, preallocation).await.map_err(|error| match error {
        Error::Host { source, .. } if source.raw_os_error() == Some(libc::EFBIG) => {
            Error::Unsupported("The image size is too large for file format 'raw'".into())
        }
        Error::Host { source, .. } => Error::Unsupported(format!("Could not resize file: {}", host_words(&source))),
        other => other,
    })
}

/// A file of a new image, which goes again unless it is kept.
struct NewFile {
    path: PathBuf,
    /// It was not there before.
    is_new: bool,
}

impl NewFile {
    /// Opens the file, and makes it if there is none. What it has is still there.
    fn make(path: &Path, values: &OptionValues) -> Result<(NewFile, HostFile), Error> {
        let failed = |why: String| Error::Create { name: path.display().to_string(), why };
        let host = |error: std::io::Error| failed(host_words(&error));
        let metadata = std::fs::metadata(path).ok();
        // To open a FIFO may take for ever.
        if metadata.as_ref().is_some_and(|metadata| metadata.file_type().is_fifo()) {
            return Err(failed("it is a FIFO, which has no bytes at any place".into()));
        }
        let mut options = File::options();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path).map_err(host)?;
        if values.is_on("nocow") {
            // File systems without such a flag do not copy either.
            let _ = ioctl_getflags(&opened).and_then(|flags| ioctl_setflags(&opened, flags | IFlags::NOCOW));
        }
        drop(opened);
        let file = NewFile { path: path.to_owned(), is_new: metadata.is_none() };
        // Others that use it keep it from being lost.
        let protocol = HostFile::open(path, FileOptions::default()).map_err(|error| match error {
            Error::Open { why, .. } => failed(why),
            other => other,
        });
        let protocol = file.keep_if(protocol)?;
        Ok((file, protocol))
    }

    fn keep_if<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        if done.is_err() && self.is_new {
            // That it could not be made is what the user must know.
            let _ = std::fs::remove_file(&self.path);
        }
        done
    }
}
