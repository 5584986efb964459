//! Deflate, the compression of several formats.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::Error;

/// What stands around compressed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrapper {
    /// Nothing.
    None,
    /// A header and a checksum, those of zlib.
    Zlib,
}

/// The bytes that `packed` begins with in compressed form, at most `most` of them. That more follows is no error.
pub(crate) async fn inflate(packed: Vec<u8>, most: usize, wrapper: Wrapper) -> Result<Vec<u8>, Error> {
    blocking::unblock(move || {
        let mut state = Decompress::new(wrapper == Wrapper::Zlib);
        let mut bytes = vec![0; most];
        loop {
            let (taken, made) = (state.total_in(), state.total_out());
            let (rest, room) = (&packed[taken as usize..], &mut bytes[made as usize..]);
            let status = state.decompress(rest, room, FlushDecompress::Finish);
            let status = status.map_err(|error| Error::Corrupt(format!("compressed data: {error}")))?;
            let is_stuck = (state.total_in(), state.total_out()) == (taken, made);
            if status == Status::StreamEnd || is_stuck || state.total_out() == most as u64 {
                bytes.truncate(state.total_out() as usize);
                return Ok(bytes);
            }
        }
    })
    .await
}

/// The bytes in compressed form, if that is less than `most` bytes long.
pub(crate) async fn deflate(
    bytes: Vec<u8>,
    most: usize,
    wrapper: Wrapper,
    window_bits: u8,
) -> Result<Option<Vec<u8>>, Error> {
    blocking::unblock(move || {
        let level = Compression::default();
        let mut state = Compress::new_with_window_bits(level, wrapper == Wrapper::Zlib, window_bits);
        let mut packed = vec![0; most];
        let status = state.compress(&bytes, &mut packed, FlushCompress::Finish);
        let status = status.map_err(|error| Error::Unsupported(format!("data cannot be compressed: {error}")))?;
        packed.truncate(state.total_out() as usize);
        Ok((status == Status::StreamEnd && packed.len() < most).then_some(packed))
    })
    .await
}
