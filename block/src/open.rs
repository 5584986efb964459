//! Opens images: the nodes of a file and of the format in it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::neighbours::Neighbours;
use crate::{
    Driver, Error, FileOptions, Format, HostFile, Node, Raw, bochs, cloop, dmg, parallels, qcow, vdi, vhdx, vmdk, vpc,
};

/// How an image is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageOptions {
    /// Its format; found out from the first bytes if it is not given.
    pub format: Option<Format>,
    /// How its file is opened.
    pub file: FileOptions,
}

/// Opens the image in a file, and those that it needs.
pub async fn open(path: &Path, options: ImageOptions) -> Result<Arc<Node>, Error> {
    let neighbours = Neighbours::of(path, options.file);
    let file = Node::new(generated_name(), HostFile::open(path, options.file)?);
    open_in(file, options.format, neighbours).await.map_err(|error| error.while_opening(path))
}

/// Opens the image in a file that is open already. `neighbours` says where what it names is looked for.
pub(crate) async fn open_in(
    file: Arc<Node>,
    format: Option<Format>,
    neighbours: Neighbours,
) -> Result<Arc<Node>, Error> {
    let format = match format {
        Some(format) => format,
        None => Format::probe_named(neighbours.path(), &file).await?,
    };
    let driver: Box<dyn Driver> = match format {
        Format::Raw => Box::new(Raw::new(file)),
        Format::Qcow2 => return Err(Error::Unsupported("disks in format qcow2 are not built".into())),
        Format::Bochs => bochs::open(file).await?,
        Format::Cloop => cloop::open(file).await?,
        Format::Dmg => dmg::open(file).await?,
        Format::Vdi => vdi::open(file).await?,
        Format::Vhdx => vhdx::open(file).await?,
        Format::Vmdk => vmdk::open_beside(file, &neighbours).await?,
        Format::Vpc => vpc::open(file).await?,
        Format::Qcow => {
            let backing = match qcow::Header::read(&file).await?.backing_file {
                // The image does not say which format its backing file has.
                Some(name) => Some(neighbours.open_backing(&name, None).await?),
                None => None,
            };
            qcow::open(file, backing).await?
        }
        Format::Parallels => parallels::open(file).await?,
    };
    Ok(Node::of(generated_name(), driver))
}

/// A name for a node that the user gave none: no user's name begins so.
pub(crate) fn generated_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(100);
    format!("#block{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
