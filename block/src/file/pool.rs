//! Requests on threads that wait for them.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::{Transfer, number};
use crate::IoVector;

/// Most pieces of one request.
pub(super) const MOST_PIECES: usize = 1024;

/// Moves as much of `memory` as the host does at once; returns how many bytes.
pub(super) async fn transfer(file: &Arc<File>, transfer: Transfer, offset: u64, memory: IoVector) -> io::Result<usize> {
    let file = file.clone();
    blocking::unblock(move || {
        let pieces = memory.as_iovecs(MOST_PIECES);
        let (number, count) = (number(&file), pieces.len() as i32);
        let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        // SAFETY: the pieces are `memory`'s, which is kept until the call returns, and so is the file.
        let moved = unsafe {
            match transfer {
                Transfer::Read => libc::preadv(number, pieces.as_ptr(), count, offset),
                Transfer::Write => libc::pwritev(number, pieces.as_ptr(), count, offset),
            }
        };
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    })
    .await
}
