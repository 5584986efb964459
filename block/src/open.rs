//! Opens images: the nodes of a file and of the format in it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, FileOptions, Format, HostFile, Node, Raw};

/// How an image is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageOptions {
    /// Its format; found out from the first bytes if it is not given.
    pub format: Option<Format>,
    /// How its file is opened.
    pub file: FileOptions,
}

/// Opens the image in a file.
pub async fn open(path: &Path, options: ImageOptions) -> Result<Arc<Node>, Error> {
    let file = Node::new(generated_name(), HostFile::open(path, options.file)?);
    let format = match options.format {
        Some(format) => format,
        None => Format::probe(&file).await?,
    };
    match format {
        Format::Raw => Ok(Node::new(generated_name(), Raw::new(file))),
        Format::Qcow2 => Err(Error::Unsupported("disks in format qcow2 are not built".into())),
    }
}

/// A name for a node that the user gave none: no user's name begins so.
fn generated_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(100);
    format!("#block{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
