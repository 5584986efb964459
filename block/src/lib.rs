//! Block node graph: protocols and formats of disk images.
//!
//! A node is a disk of bytes; guest devices are its users. Guest devices and their registers do not live here.
//!
//! Read first: [`BlockNode`], [`RawFile`].

mod fields;
mod inspect;
pub mod qcow2;
mod raw_file;

use std::io;

pub use fields::FieldError;
pub use inspect::{Format, Image, InspectError};
pub use raw_file::RawFile;

/// A disk: bytes that can be read and written at any position. Shared by threads; requests may run at once.
pub trait BlockNode: Send + Sync {
    /// Length in bytes.
    fn length(&self) -> u64;

    /// True if writes are refused.
    fn is_read_only(&self) -> bool;

    /// Fills `buffer` with the bytes from `offset` on.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error>;

    /// Writes `data` at `offset`. It is safe from a crash of the host only after a [`BlockNode::flush`].
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Error>;

    /// Returns once everything written before is on stable storage.
    fn flush(&self) -> Result<(), Error>;
}

/// Why a block request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request goes beyond the end of the disk.
    #[error("a request for {length} bytes at {offset} goes beyond the end of a disk of {disk} bytes")]
    OutOfBounds {
        /// First byte of the request.
        offset: u64,
        /// Length of the request in bytes.
        length: u64,
        /// Length of the disk in bytes.
        disk: u64,
    },
    /// A write to a disk that was opened read-only.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The image could not be opened.
    #[error("cannot open disk image {path}: {source}")]
    Open {
        /// The file's path.
        path: String,
        /// The host's answer.
        source: io::Error,
    },
    /// The host failed the request.
    #[error("the host could not {operation}: {source}")]
    Host {
        /// The operation, as a verb.
        operation: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

/// Checks a request of `length` bytes at `offset` against a disk of `disk` bytes.
fn check_bounds(offset: u64, length: usize, disk: u64) -> Result<(), Error> {
    let length = length as u64;
    match offset.checked_add(length) {
        Some(end) if end <= disk => Ok(()),
        _ => Err(Error::OutOfBounds { offset, length, disk }),
    }
}
