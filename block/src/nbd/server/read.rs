//! Reads: data, and holes where that is known.

use std::io;

use super::connection::Connection;
use super::status::allocation;
use crate::nbd::Failure;
use crate::nbd::wire::*;
use crate::{Error, IoVector};

/// Length from which on a read asks where there are holes, bytes. For less, that takes longer than to read zeros.
const SPARSE: u64 = 64 << 10;

/// Most chunks of a reply.
const MOST_CHUNKS: usize = 256;

/// Serves a read of which the bounds were checked.
pub(super) async fn serve(connection: &Connection, header: &RequestHeader, flags: CommandFlags) -> io::Result<()> {
    let (backend, end) = (&connection.export().backend, header.offset + header.length);
    if connection.headers == Headers::Simple {
        let data = IoVector::zeroed(header.length as usize);
        return match backend.read(header.offset, data.clone()).await {
            Ok(()) => connection.done(header, &data).await,
            Err(error) => connection.failed(header, &Failure::from(&error)).await,
        };
    }
    if header.length == 0 {
        return connection.done(header, &IoVector::empty()).await;
    }
    let is_one = flags.contains(CommandFlags::NBD_CMD_FLAG_DF) || header.length < SPARSE;
    let (mut at, mut chunks) = (header.offset, 0);
    while at < end {
        let may_split = !is_one && chunks + 1 < MOST_CHUNKS;
        let part = match stretch(connection, at, end - at, may_split).await {
            Ok(part) => part,
            Err(error) => return connection.failed(header, &Failure::from(&error)).await,
        };
        let mut start = Vec::new();
        start.u64(at);
        at += part.length;
        match part.data {
            Some(data) => connection.chunk(header, NBD_REPLY_TYPE_OFFSET_DATA, at == end, &start, &data).await?,
            None => {
                start.u32(part.length as u32);
                let none = IoVector::empty();
                connection.chunk(header, NBD_REPLY_TYPE_OFFSET_HOLE, at == end, &start, &none).await?;
            }
        }
        chunks += 1;
    }
    Ok(())
}

/// What one chunk has.
struct Part {
    length: u64,
    /// `None`: zeros.
    data: Option<IoVector>,
}

/// The next bytes of the disk, as far as they are all data or all a hole.
async fn stretch(connection: &Connection, offset: u64, most: u64, may_split: bool) -> Result<Part, Error> {
    let backend = &connection.export().backend;
    let (mut length, mut is_zero) = (most, false);
    if may_split {
        (length, is_zero) = (0, true);
        while length < most {
            let found = allocation(&backend.medium()?, offset + length, most - length).await?;
            if length > 0 && found.kind.is_zero() != is_zero {
                break;
            }
            is_zero = found.kind.is_zero();
            length += found.length;
        }
    }
    if is_zero {
        return Ok(Part { length, data: None });
    }
    let data = IoVector::zeroed(length as usize);
    backend.read(offset, data.clone()).await?;
    Ok(Part { length, data: Some(data) })
}
