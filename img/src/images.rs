//! Images that a command line names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{Engine, Error, FileOptions, HostFile, ImageOptions, Node, Sharing};

use crate::arguments::source_format;
use crate::cache::Cache;
use crate::failure::Failure;

/// Runs an operation of the library on all processors.
pub(crate) fn run<T>(operation: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_time().build()?.block_on(operation)
}

/// The file that a name means. Names of other protocols, and descriptions in JSON, are refused.
pub(crate) fn path(name: &OsStr) -> Result<PathBuf, Failure> {
    let failed = |why: &str| Err(Failure::said(format!("Could not open '{}': {why}", name.display())));
    let bytes = name.as_bytes();
    let Some(colon) = bytes.iter().position(|byte| *byte == b':') else { return Ok(PathBuf::from(name)) };
    let (prefix, rest) = (&bytes[..colon], &bytes[colon + 1..]);
    if prefix.contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    match prefix {
        b"file" => Ok(PathBuf::from(OsStr::from_bytes(rest))),
        b"json" => failed("descriptions of images in JSON are not built yet"),
        b"blkdebug" | b"blkverify" | b"curl" | b"fat" | b"ftp" | b"ftps" | b"gluster" | b"host_device" | b"http"
        | b"https" | b"iscsi" | b"nbd" | b"nbd+tcp" | b"nbd+unix" | b"nfs" | b"null-aio" | b"null-co" | b"nvme"
        | b"rbd" | b"ssh" => {
            failed(&format!("images by protocol '{}' are not built yet", String::from_utf8_lossy(prefix)))
        }
        _ => failed(&format!("Unknown protocol '{}'", String::from_utf8_lossy(prefix))),
    }
}

/// Opens an image; its format is found out unless it is given.
pub(crate) async fn open(
    name: &OsStr,
    format: Option<&str>,
    cache: Cache,
    read_only: bool,
    sharing: Sharing,
) -> Result<Arc<Node>, Failure> {
    let path = path(name)?;
    let options = ImageOptions {
        format: source_format(&path, format)?,
        file: FileOptions {
            read_only,
            direct: cache.direct,
            no_flush: cache.no_flush,
            sharing,
            ..FileOptions::default()
        },
        ..ImageOptions::default()
    };
    open_with(&path, options).await
}

/// Opens an image in a way that the library has.
pub(crate) async fn open_with(path: &Path, options: ImageOptions) -> Result<Arc<Node>, Failure> {
    let opened = block::open(path, options).await;
    Ok(opened.map_err(|error| match error {
        Error::Open { .. } => error,
        other => Error::Open { name: path.display().to_string(), why: other.to_string() },
    })?)
}

/// Says that an image is written whose format nobody gave: what a guest wrote may look like another format the next time.
pub(crate) fn warn_if_guessed(name: &OsStr, format: Option<&str>, node: &Node) {
    if format.is_none() && node.driver().name() == "raw" {
        eprintln!(
            "WARNING: Image format was not specified for '{}' and probing guessed raw.\n         \
             What a guest writes may look like another format; specify the 'raw' format explicitly.",
            name.display()
        );
    }
}

/// The same for each name of a file that is there.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The file is one of those that an image is made of.
pub(crate) fn is_part_of(identity: (u64, u64), node: &Node) -> bool {
    node.driver_as::<HostFile>().is_some_and(|file| file.identity() == identity)
        || node.driver().children().iter().any(|(_, child)| is_part_of(identity, child))
}

/// The way of requests that the names `threads`, `native` and `io_uring` mean.
pub(crate) fn engine(name: &str) -> Option<Engine> {
    match name {
        "threads" => Some(Engine::Threads),
        "native" | "io_uring" => Some(Engine::IoUring),
        _ => None,
    }
}
