//! What requests do.

use std::io;

use super::connection::{Connection, Request};
use super::{read, status};
use crate::driver::ZeroFlags;
use crate::nbd::wire::*;
use crate::nbd::{Failure, MAXIMUM_PAYLOAD};
use crate::{Backend, Error, IoVector};

/// Bytes that are read at once where nobody wants them.
const CACHED: u64 = 1 << 20;

/// Serves a request: does what it asks for, and replies.
pub(super) async fn serve(connection: &Connection, request: &Request) -> io::Result<()> {
    let header = &request.header;
    let flags = match check(connection, header) {
        Ok(flags) => flags,
        Err(failure) => return connection.failed(header, &failure).await,
    };
    match header.command {
        NBD_CMD_READ => return read::serve(connection, header, flags).await,
        NBD_CMD_BLOCK_STATUS => return status::serve(connection, header, flags).await,
        _ => {}
    }
    match change(&connection.export().backend, request, flags).await {
        Ok(()) => connection.done(header, &IoVector::empty()).await,
        Err(error) => connection.failed(header, &Failure::from(&error)).await,
    }
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(libc::EINVAL, text)
}

/// Checks what can be known before anything is done.
fn check(connection: &Connection, header: &RequestHeader) -> Result<CommandFlags, Failure> {
    use CommandFlags as Flags;
    let (has_chunks, is_extended) = (connection.headers != Headers::Simple, connection.headers == Headers::Extended);
    // FUA is allowed, and says nothing, where nothing is changed.
    let mut valid = Flags::NBD_CMD_FLAG_FUA;
    let (name, is_change) = match header.command {
        NBD_CMD_READ => {
            valid.set(Flags::NBD_CMD_FLAG_DF, has_chunks);
            ("read", false)
        }
        NBD_CMD_WRITE => {
            valid.set(Flags::NBD_CMD_FLAG_PAYLOAD_LEN, is_extended);
            ("write", true)
        }
        NBD_CMD_FLUSH => ("flush", false),
        NBD_CMD_TRIM => ("trim", true),
        NBD_CMD_CACHE => ("cache", false),
        NBD_CMD_WRITE_ZEROES => {
            valid |= Flags::NBD_CMD_FLAG_NO_HOLE | Flags::NBD_CMD_FLAG_FAST_ZERO;
            ("write zeroes", true)
        }
        NBD_CMD_BLOCK_STATUS if has_chunks => {
            valid |= Flags::NBD_CMD_FLAG_REQ_ONE;
            ("block status", false)
        }
        other => return Err(invalid(format!("command {other} is not known"))),
    };
    let flags = Flags::from_bits(header.flags).filter(|flags| valid.contains(*flags));
    let Some(flags) = flags else {
        let (flags, valid) = (header.flags, valid.bits());
        return Err(invalid(format!("flags {flags:#x} of command {name}; valid are those of {valid:#x}")));
    };
    if is_change && !connection.export().writable {
        return Err(Failure::new(libc::EPERM, "the export is read-only"));
    }
    if header.command == NBD_CMD_FLUSH {
        return Ok(flags);
    }
    let (offset, length, disk) = (header.offset, header.length, connection.export().backend.length());
    if offset.checked_add(length).is_none_or(|end| end > disk) {
        let needs_room = matches!(header.command, NBD_CMD_WRITE | NBD_CMD_WRITE_ZEROES);
        let error = Error::OutOfBounds { offset, length, disk };
        return Err(Failure::new(if needs_room { libc::ENOSPC } else { libc::EINVAL }, error.to_string()));
    }
    if matches!(header.command, NBD_CMD_READ | NBD_CMD_CACHE) && length > MAXIMUM_PAYLOAD.into() {
        return Err(invalid(format!("{length} bytes to {name}; valid are at most {MAXIMUM_PAYLOAD}")));
    }
    Ok(flags)
}

/// Does what has no other answer than that it is done.
async fn change(backend: &Backend, request: &Request, flags: CommandFlags) -> Result<(), Error> {
    let RequestHeader { command, offset, length, .. } = request.header;
    match command {
        NBD_CMD_WRITE => backend.write(offset, request.payload.clone()).await?,
        NBD_CMD_TRIM => backend.discard(offset, length).await?,
        NBD_CMD_WRITE_ZEROES => {
            let mut how = ZeroFlags::empty();
            how.set(ZeroFlags::MAY_UNMAP, !flags.contains(CommandFlags::NBD_CMD_FLAG_NO_HOLE));
            how.set(ZeroFlags::NO_FALLBACK, flags.contains(CommandFlags::NBD_CMD_FLAG_FAST_ZERO));
            backend.write_zeroes(offset, length, how).await?;
        }
        NBD_CMD_CACHE => {
            let memory = IoVector::zeroed(length.min(CACHED) as usize);
            let mut done = 0;
            while done < length {
                let part = (length - done).min(CACHED);
                backend.read(offset + done, memory.slice(0, part as usize)).await?;
                done += part;
            }
            return Ok(());
        }
        // What else there is was checked.
        _ => return backend.flush().await,
    }
    if flags.contains(CommandFlags::NBD_CMD_FLAG_FUA) { backend.flush().await } else { Ok(()) }
}
