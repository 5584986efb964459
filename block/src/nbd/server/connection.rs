//! The requests of a client, and the way of their replies.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::commands;
use super::contexts::Context;
use super::export::{Export, Exported};
use super::handshake::Session;
use super::users::ended;
use crate::IoVector;
use crate::nbd::stream::{self, Stream};
use crate::nbd::wire::*;
use crate::nbd::{Failure, MAXIMUM_PAYLOAD};

/// Most bytes that the requests of one connection have in memory: a longest one, and another while its reply is sent.
const MEMORY_OF_CONNECTION: usize = 2 * MAXIMUM_PAYLOAD as usize;

/// What a request counts at least, bytes: so that there are at most 128 under way.
const LEAST_COST: u64 = MEMORY_OF_CONNECTION as u64 / 128;

/// How long the end of a connection may wait for the client.
const FAREWELL: Duration = Duration::from_secs(1);

/// Bytes that are read ahead: many requests without data.
const READ_AHEAD: usize = 16 << 10;

/// A request, with what was sent with it.
pub(super) struct Request {
    pub(super) header: RequestHeader,
    pub(super) payload: IoVector,
    /// What it has of the connection's memory.
    _memory: OwnedSemaphorePermit,
}

/// A connection of which requests are under way.
pub(super) struct Connection {
    exported: Arc<Exported>,
    pub(super) headers: Headers,
    pub(super) contexts: Vec<Context>,
    writer: Mutex<WriteHalf<Stream>>,
    /// True: it ends, and no more replies are sent.
    gone: watch::Sender<bool>,
}

/// Serves requests until the client leaves, or the server or the export ends. Returns once no request is under way.
pub(super) async fn serve(session: Session, mut stopping: watch::Receiver<bool>) {
    let Session { stream, exported, user, headers, contexts } = session;
    let mut ending = exported.ending();
    let (reader, writer) = tokio::io::split(stream);
    let (writer, gone) = (Mutex::new(writer), watch::channel(false).0);
    let connection = Arc::new(Connection { exported, headers, contexts, writer, gone });
    let mut requests = JoinSet::new();
    let mut gone = connection.gone.subscribe();
    let over = async {
        tokio::select! {
            () = ended(&mut stopping) => {}
            () = ended(&mut ending) => {}
            () = ended(&mut gone) => {}
        }
    };
    tokio::pin!(over);
    let mut is_over = tokio::select! {
        taken = take(&connection, reader, &mut requests) => {
            if let Err(error) = taken {
                tracing::debug!("an NBD client left: {error}");
            }
            false
        }
        () = &mut over => true,
    };
    while !requests.is_empty() {
        if is_over {
            connection.gone.send_replace(true);
            requests.join_next().await;
        } else {
            tokio::select! {
                _ = requests.join_next() => {}
                () = &mut over => is_over = true,
            }
        }
    }
    // Of TLS, this is more than closing.
    let mut writer = connection.writer.lock().await;
    let _ = tokio::time::timeout(FAREWELL, writer.shutdown()).await;
    drop(writer);
    drop(connection);
    drop(user);
}

/// Takes requests and starts them, until the client leaves.
async fn take(connection: &Arc<Connection>, reader: ReadHalf<Stream>, requests: &mut JoinSet<()>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(READ_AHEAD, reader);
    let memory = Arc::new(Semaphore::new(MEMORY_OF_CONNECTION));
    let mut header = vec![0; RequestHeader::length_of(connection.headers)];
    loop {
        reader.read_exact(&mut header).await?;
        let header = RequestHeader::decode(&header, connection.headers).map_err(io::Error::other)?;
        if header.command == NBD_CMD_DISC {
            return Ok(());
        }
        let payload = payload(&header, connection.headers);
        if payload > MAXIMUM_PAYLOAD.into() {
            let text = format!("{payload} bytes of data with a request; valid are at most {MAXIMUM_PAYLOAD}");
            return Err(io::Error::other(text));
        }
        let reply = if header.command == NBD_CMD_READ { header.length.min(MAXIMUM_PAYLOAD.into()) } else { 0 };
        let cost = payload.max(reply).max(LEAST_COST) as u32;
        let memory = memory.clone().acquire_many_owned(cost).await.map_err(io::Error::other)?;
        // A task that has ended takes no more memory, nor a place here.
        while requests.try_join_next().is_some() {}
        let payload = if header.command == NBD_CMD_WRITE {
            let data = IoVector::zeroed(payload as usize);
            stream::receive(&mut reader, &data).await?;
            data
        } else {
            stream::skip(&mut reader, payload).await?;
            IoVector::empty()
        };
        let (connection, request) = (connection.clone(), Request { header, payload, _memory: memory });
        requests.spawn(async move {
            let unanswered = Unanswered(&connection);
            // That the client does not hear of it has ended the connection already.
            let _ = commands::serve(&connection, &request).await;
            std::mem::forget(unanswered);
        });
    }
}

/// Ends the connection if it is dropped: a request that panicked has no reply, and its client is not to wait for one.
struct Unanswered<'a>(&'a Connection);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.gone.send_replace(true);
    }
}

/// How many bytes follow a request's header.
fn payload(header: &RequestHeader, headers: Headers) -> u64 {
    let is_payload = header.flags & CommandFlags::NBD_CMD_FLAG_PAYLOAD_LEN.bits() != 0;
    // The document wants the flag of extended writes, too, but QEMU does not set it.
    let has_payload = header.command == NBD_CMD_WRITE || headers == Headers::Extended && is_payload;
    if has_payload { header.length } else { 0 }
}

impl Connection {
    pub(super) fn export(&self) -> &Export {
        &self.exported.export
    }

    /// Sends a reply, or a chunk of one.
    async fn send(&self, head: &[u8], data: &IoVector) -> io::Result<()> {
        let mut gone = self.gone.subscribe();
        let sent = tokio::select! {
            biased;
            () = ended(&mut gone) => return Err(io::ErrorKind::NotConnected.into()),
            sent = async { stream::send(&mut *self.writer.lock().await, head, data).await } => sent,
        };
        if sent.is_err() {
            self.gone.send_replace(true);
        }
        sent
    }

    /// Sends a chunk that has `start`, and `data` behind it.
    pub(super) async fn chunk(
        &self,
        header: &RequestHeader,
        kind: u16,
        is_last: bool,
        start: &[u8],
        data: &IoVector,
    ) -> io::Result<()> {
        let mut head = Vec::new();
        let (cookie, offset, length) = (header.cookie, header.offset, (start.len() + data.len()) as u64);
        let flags = if is_last { ReplyFlags::NBD_REPLY_FLAG_DONE } else { ReplyFlags::empty() };
        ChunkHeader { flags, kind, cookie, offset, length }.encode(self.headers, &mut head);
        self.send(head.bytes(start), data).await
    }

    /// Tells that a request is done. With simple headers, `data` is what was asked for.
    pub(super) async fn done(&self, header: &RequestHeader, data: &IoVector) -> io::Result<()> {
        if self.headers != Headers::Simple {
            return self.chunk(header, NBD_REPLY_TYPE_NONE, true, &[], data).await;
        }
        let mut head = Vec::new();
        ReplyHeader::encode_simple(0, header.cookie, &mut head);
        self.send(&head, data).await
    }

    /// Tells that a request failed.
    pub(super) async fn failed(&self, header: &RequestHeader, failure: &Failure) -> io::Result<()> {
        let error = failure.wire();
        let mut head = Vec::new();
        if self.headers == Headers::Simple {
            ReplyHeader::encode_simple(error, header.cookie, &mut head);
            return self.send(&head, &IoVector::empty()).await;
        }
        let text = failure.text.as_bytes();
        let text = &text[..text.len().min(MAXIMUM_STRING)];
        head.u32(error).u16(text.len() as u16).bytes(text);
        self.chunk(header, NBD_REPLY_TYPE_ERROR, true, &head, &IoVector::empty()).await
    }
}
