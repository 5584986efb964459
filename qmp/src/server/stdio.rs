//! Standard input and output as a connection.
//!
//! Both may be terminals that the process shares with others, or plain files; so threads read and write them as they
//! are, without making them non-blocking.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How much is under way in each direction, bytes.
const BUFFER: usize = 4096;

/// Standard output. Its shutdown waits until everything is written.
pub(super) struct Output {
    stream: DuplexStream,
    written: oneshot::Receiver<()>,
}

impl AsyncWrite for Output {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        // The thread has gone in either case.
        Pin::new(&mut self.written).poll(context).map(|_| Ok(()))
    }
}

/// Starts the threads.
pub(super) fn open(runtime: &Handle) -> io::Result<(DuplexStream, Output)> {
    let (reader, mut to_reader) = tokio::io::duplex(BUFFER);
    let (stream, mut from_writer) = tokio::io::duplex(BUFFER);
    let (done, written) = oneshot::channel();
    let handle = runtime.clone();
    std::thread::Builder::new().name("monitor stdin".into()).spawn(move || {
        let mut buffer = [0; BUFFER];
        while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
            let data = buffer.get(..length).unwrap_or_default();
            if handle.block_on(to_reader.write_all(data)).is_err() {
                return;
            }
        }
    })?;
    let handle = runtime.clone();
    std::thread::Builder::new().name("monitor stdout".into()).spawn(move || {
        let mut buffer = [0; BUFFER];
        while let Ok(length @ 1..) = handle.block_on(from_writer.read(&mut buffer)) {
            let mut stdout = io::stdout().lock();
            let data = buffer.get(..length).unwrap_or_default();
            if stdout.write_all(data).and_then(|()| stdout.flush()).is_err() {
                return;
            }
        }
        // Nobody may wait.
        let _ = done.send(());
    })?;
    Ok((reader, Output { stream, written }))
}
