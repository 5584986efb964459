//! Opens images: the nodes of a file and of the format in it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::neighbours::Neighbours;
use crate::qcow2::{self, Files, ImageUse, Qcow2};
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
    /// The backing files are left out: what is not in the image reads as zeros.
    pub no_backing: bool,
    /// Gives room back to the file where the disk's bytes are given up.
    pub discard: bool,
    /// Opens also what is marked as corrupt or as not closed, to check it.
    pub check: bool,
}

/// Opens the image in a file, and those that it needs.
///
/// Names in an image are those of regular files, and never of devices or protocols. Files that would be written are looked for beside
/// the image. The format of a backing file is what the image above says; if it says none, it is found out.
pub async fn open(path: &Path, options: ImageOptions) -> Result<Arc<Node>, Error> {
    let file = Node::new(generated_name(), HostFile::open(path, options.file)?);
    open_in(file, options.format, Neighbours::of(path, options)).await.map_err(|error| error.while_opening(path))
}

/// What stands behind an image, and beside it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Around {
    /// What has the bytes that are not in the image.
    pub(crate) backing: Backing,
    /// What has its data; the file that it names, if it names one and none is given.
    pub(crate) data_file: Option<Arc<Node>>,
}

/// What has the bytes that are not in an image.
#[derive(Clone, Debug, Default)]
pub(crate) enum Backing {
    /// The file that it names, if it names one.
    #[default]
    AsNamed,
    /// Nothing, whatever it names.
    Nothing,
    /// This.
    Node(Arc<Node>),
}

impl Backing {
    /// Refuses one that was given to an image that can have none.
    fn refuse(&self, format: Format) -> Result<(), Error> {
        match self {
            Backing::Node(_) => Err(Error::Unsupported(format!(
                "images of format '{}' can have no other backing than they name",
                format.name()
            ))),
            Backing::AsNamed | Backing::Nothing => Ok(()),
        }
    }
}

/// Opens the image in a file that is open already. `neighbours` says where what it names is looked for.
pub(crate) async fn open_in(
    file: Arc<Node>,
    format: Option<Format>,
    neighbours: Neighbours,
) -> Result<Arc<Node>, Error> {
    let driver = open_driver(file, format, &neighbours, Around::default()).await?;
    Ok(Node::of(generated_name(), driver))
}

/// The disk of the image in a file that is open already.
pub(crate) async fn open_driver(
    file: Arc<Node>,
    format: Option<Format>,
    neighbours: &Neighbours,
    around: Around,
) -> Result<Box<dyn Driver>, Error> {
    let found = match format {
        Some(format) => format,
        None => Format::probe_named(neighbours.path(), &file).await?,
    };
    if !matches!(found, Format::Qcow2 | Format::Qcow) {
        around.backing.refuse(found)?;
    }
    let without_backing;
    let neighbours = match around.backing {
        Backing::Nothing => {
            without_backing = neighbours.without_backing();
            &without_backing
        }
        _ => neighbours,
    };
    let driver: Box<dyn Driver> = match found {
        Format::Raw if format.is_none() => Box::new(Raw::guessed(file)),
        Format::Raw => Box::new(Raw::new(file)),
        Format::Qcow2 => Box::new(open_qcow2(file, neighbours, around).await?),
        Format::Bochs => bochs::open(file).await?,
        Format::Cloop => cloop::open(file).await?,
        Format::Dmg => dmg::open(file).await?,
        Format::Vdi => vdi::open(file).await?,
        Format::Vhdx => vhdx::open(file).await?,
        Format::Vmdk => vmdk::open_beside(file, neighbours).await?,
        Format::Vpc => vpc::open(file).await?,
        Format::Qcow => {
            let backing = match (around.backing, qcow::Header::read(&file).await?.backing_file) {
                (Backing::Node(node), _) => Some(node),
                // The image does not say which format its backing file has.
                (_, Some(name)) => neighbours.open_backing(&name, None).await?,
                (_, None) => None,
            };
            qcow::open(file, backing).await?
        }
        Format::Parallels => parallels::open(file).await?,
    };
    Ok(driver)
}

async fn open_qcow2(file: Arc<Node>, neighbours: &Neighbours, around: Around) -> Result<Qcow2, Error> {
    let metadata = qcow2::Metadata::read(&file).await?;
    let data_file = match (around.data_file, &metadata.extensions.data_file, metadata.header.has_data_file()) {
        (Some(_), _, false) => {
            return Err(Error::Unsupported("'data-file' can only be set for images with an external data file".into()));
        }
        (Some(node), _, true) => Some(node),
        (None, Some(name), true) => Some(neighbours.open_part(name).await?),
        (None, ..) => None,
    };
    let backing = match (around.backing, &metadata.backing_file) {
        (Backing::Node(node), _) => Some(node),
        (_, Some(name)) => {
            let unknown = |name: &String| {
                let known = Format::names();
                Error::Unsupported(format!("its backing file's format is said to be {name:?}; known are {known}"))
            };
            let format = metadata.extensions.backing_format.as_ref();
            let format = format.map(|name| Format::named(name).ok_or_else(|| unknown(name))).transpose()?;
            let text = |error: Error| Error::Unsupported(format!("Could not open backing file: {error}"));
            neighbours.open_backing(name, format).await.map_err(text)?
        }
        (_, None) => None,
    };
    let ImageOptions { file: FileOptions { read_only, .. }, discard, check, .. } = neighbours.options();
    Qcow2::open(Files { file, backing, data_file }, metadata, ImageUse { read_only, discard, check }).await
}

/// A name for a node that the user gave none: no user's name begins so.
pub(crate) fn generated_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(100);
    format!("#block{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
