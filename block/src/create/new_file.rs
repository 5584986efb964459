//! The file of a new image.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::{Error, FileOptions, HostFile, host_words};

/// A file of a new image, which goes again unless it is kept.
pub(crate) struct NewFile {
    path: PathBuf,
    /// It was not there before.
    is_new: bool,
}

impl NewFile {
    /// Opens the file, and makes it if there is none. What it has is still there. `in_place`: where the file system copies bytes before
    /// they change, it does not with those of this file.
    pub(crate) fn make(path: &Path, in_place: bool) -> Result<(NewFile, HostFile), Error> {
        let failed = |why: String| Error::Create { name: path.display().to_string(), why };
        let host = |error: std::io::Error| failed(host_words(&error));
        let metadata = std::fs::metadata(path).ok();
        // To open a FIFO may take for ever.
        if metadata.as_ref().is_some_and(|metadata| metadata.file_type().is_fifo()) {
            return Err(failed("it is a FIFO, which has no bytes at any place".into()));
        }
        let mut options = File::options();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path).map_err(host)?;
        if in_place {
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

    /// Keeps the file if all went well.
    pub(crate) fn keep_if<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        if done.is_err() && self.is_new {
            // That it could not be made is what the user must know.
            let _ = std::fs::remove_file(&self.path);
        }
        done
    }
}
