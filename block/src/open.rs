//! Opens images: the nodes of a file and of the format in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::qcow2::{self, Files, ImageUse, Qcow2};
use crate::{Error, FileOptions, Format, HostFile, Node, Raw};

/// Most images of a backing chain.
const MOST_IN_CHAIN: usize = 200;

/// How an image is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageOptions {
    /// Its format; found out from the first bytes if it is not given.
    pub format: Option<Format>,
    /// How its file is opened.
    pub file: FileOptions,
    /// The backing files are left out: what is not in the image reads as zeros.
    pub no_backing: bool,
    /// Gives room back to the file where the disk's bytes are given up.
    pub discard: bool,
    /// Opens also what is marked as corrupt or as not closed, to check it.
    pub check: bool,
}

/// Opens the image in a file, and the files that it names.
///
/// A name in an image is a file's, meant from the folder of the image, and never a protocol's. The format of a backing file is what the
/// image above says; if it says none, it is found out.
pub async fn open(path: &Path, options: ImageOptions) -> Result<Arc<Node>, Error> {
    open_in_chain(path, options, &mut Vec::new()).await
}

async fn open_in_chain(path: &Path, options: ImageOptions, above: &mut Vec<(u64, u64)>) -> Result<Arc<Node>, Error> {
    let failed = |error: Error| match error {
        error @ Error::Open { .. } => error,
        other => Error::Open { name: path.display().to_string(), why: other.to_string() },
    };
    let opened = HostFile::open(path, options.file)?;
    let identity = opened.identity();
    if above.contains(&identity) || above.len() >= MOST_IN_CHAIN {
        return Err(failed(Error::Unsupported("it stands behind itself, or behind too many others".into())));
    }
    above.push(identity);
    let file = Node::new(generated_name(), opened);
    let format = match options.format {
        Some(format) => format,
        None => Format::probe(&file).await.map_err(failed)?,
    };
    match format {
        Format::Raw => Ok(Node::new(generated_name(), Raw::new(file))),
        Format::Qcow2 => {
            let image = open_qcow2(path, file, options, above);
            Ok(Node::new(generated_name(), image.await.map_err(failed)?))
        }
    }
}

async fn open_qcow2(
    path: &Path,
    file: Arc<Node>,
    options: ImageOptions,
    above: &mut Vec<(u64, u64)>,
) -> Result<Qcow2, Error> {
    let metadata = qcow2::Metadata::read(&file).await?;
    let data_file = match (&metadata.extensions.data_file, metadata.header.has_data_file()) {
        (Some(name), true) => {
            let opened = HostFile::open(&named_in(path, name)?, options.file)?;
            Some(Node::new(generated_name(), opened))
        }
        _ => None,
    };
    let backing = match &metadata.backing_file {
        Some(name) if !options.no_backing => {
            let backing = named_in(path, name)?;
            let format = match &metadata.extensions.backing_format {
                Some(name) => Some(Format::named(name).ok_or_else(|| {
                    let known = Format::names();
                    Error::Unsupported(format!("its backing file's format is said to be {name:?}; known are {known}"))
                })?),
                None => None,
            };
            let file = FileOptions { read_only: true, ..options.file };
            let behind =
                Box::pin(open_in_chain(&backing, ImageOptions { format, file, check: false, ..options }, above));
            let text = |error: Error| Error::Unsupported(format!("Could not open backing file: {error}"));
            Some(behind.await.map_err(text)?)
        }
        _ => None,
    };
    let files = Files { file, backing, data_file };
    let ImageOptions { discard, check, .. } = options;
    Qcow2::open(files, metadata, ImageUse { read_only: options.file.read_only, discard, check }).await
}

/// The file that an image names.
fn named_in(image: &Path, name: &str) -> Result<PathBuf, Error> {
    let is_protocol = name.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && !scheme.contains('/')
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c))
    });
    if is_protocol {
        let name = name.strip_prefix("file:").filter(|rest| !rest.contains("://"));
        let Some(name) = name else {
            return Err(Error::Unsupported(
                "the image names something else than a file, and protocols are not built".into(),
            ));
        };
        return Ok(image.parent().unwrap_or(Path::new("")).join(name));
    }
    Ok(image.parent().unwrap_or(Path::new("")).join(name))
}

/// A name for a node that the user gave none: no user's name begins so.
fn generated_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(100);
    format!("#block{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
