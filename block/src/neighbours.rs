//! Files that an image names: its extents, and the image behind it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::open::{generated_name, open_in};
use crate::{Error, FileOptions, Format, HostFile, ImageOptions, Node};

/// Most images of a chain.
const MOST_IN_CHAIN: usize = 256;

/// Where the files that an image names are looked for, and how they are opened.
///
/// An image may come from anywhere, and so may the names in it. They name regular files; what looks like a protocol or is a device is
/// refused.
#[derive(Clone)]
pub(crate) struct Neighbours {
    /// The image's path; `None`: it is no file of the host.
    path: Option<PathBuf>,
    options: ImageOptions,
    /// Device and number of the files of the images in front, and of this one.
    chain: Vec<Option<(u64, u64)>>,
}

impl Neighbours {
    /// Those of an image that the user named.
    pub(crate) fn of(path: &Path, options: ImageOptions) -> Neighbours {
        Neighbours { path: Some(path.to_owned()), options, chain: vec![identity(path)] }
    }

    /// Those of an image that is no file of the host: it can only name others from the root folder on.
    pub(crate) fn of_no_file(options: ImageOptions) -> Neighbours {
        Neighbours { path: None, options, chain: Vec::new() }
    }

    /// The same, and backing files are left out.
    pub(crate) fn without_backing(&self) -> Neighbours {
        Neighbours { options: ImageOptions { no_backing: true, ..self.options }, ..self.clone() }
    }

    /// The image's own path, or none.
    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// How the image is opened.
    pub(crate) fn options(&self) -> ImageOptions {
        self.options
    }

    /// Where a file of this name is.
    pub(crate) fn place(&self, name: &str) -> Result<PathBuf, Error> {
        let refused = |why: &str| Error::Open { name: name.to_owned(), why: why.to_owned() };
        let name = name.strip_prefix("file:").unwrap_or(name);
        let before_slash = name.split('/').next().unwrap_or_default();
        if name.is_empty() || name.contains('\0') {
            return Err(refused("an image names it, and it is no name of a file"));
        }
        if before_slash.contains(':') {
            return Err(refused("an image names it, and images may not name what has a protocol"));
        }
        match &self.path {
            Some(path) => Ok(path.parent().unwrap_or(Path::new("")).join(name)),
            None if name.starts_with('/') => Ok(PathBuf::from(name)),
            None => Err(refused("an image names it that is no file, so that nobody knows the folder")),
        }
    }

    /// Opens a part of the image, which may be written: a file in the same folder or in one within it.
    pub(crate) async fn open_part(&self, name: &str) -> Result<Arc<Node>, Error> {
        let path = self.place(name)?;
        let (image, part) = (folder_of(self.path()), folder_of(&path));
        let is_beside = blocking::unblock(move || match (image.canonicalize(), part.canonicalize()) {
            (Ok(image), Ok(part)) => part.starts_with(image),
            _ => false,
        });
        if self.path.is_none() || !is_beside.await {
            let why = "an image names it as a part, and parts are in the image's folder".into();
            return Err(Error::Open { name: name.to_owned(), why });
        }
        open_file(name, &path, self.options.file).await
    }

    /// Opens the image behind this one, read-only, unless backing files are left out. A relative name is meant from the folder of the
    /// image.
    pub(crate) async fn open_backing(&self, name: &str, format: Option<Format>) -> Result<Option<Arc<Node>>, Error> {
        if self.options.no_backing {
            return Ok(None);
        }
        let file = FileOptions { read_only: true, ..self.options.file };
        let options = ImageOptions { file, check: false, ..self.options };
        let path = self.place(name)?;
        let identity = identity(&path);
        if self.chain.len() >= MOST_IN_CHAIN || (identity.is_some() && self.chain.contains(&identity)) {
            let why = "it stands behind itself, or behind too many others".into();
            return Err(Error::Open { name: path.display().to_string(), why });
        }
        let file = open_file(name, &path, file).await?;
        let chain = self.chain.iter().copied().chain([identity]).collect();
        let opening = open_in(file, format, Neighbours { path: Some(path.clone()), options, chain });
        Box::pin(opening).await.map(Some).map_err(|error| error.while_opening(&path))
    }
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

/// Opens the file at a path, which an image names.
async fn open_file(name: &str, path: &Path, options: FileOptions) -> Result<Arc<Node>, Error> {
    let path = path.to_owned();
    let file = blocking::unblock(move || match std::fs::metadata(&path) {
        Ok(metadata) if !metadata.is_file() => Ok(None),
        _ => HostFile::open(&path, options).map(Some),
    });
    let irregular =
        || Error::Open { name: name.to_owned(), why: "an image names it, and it is not a regular file".into() };
    Ok(Node::new(generated_name(), file.await?.ok_or_else(irregular)?))
}

/// The same for each name of a file.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
