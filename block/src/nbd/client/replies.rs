//! Replies, and the requests that they are to.

use std::collections::HashMap;
use std::io;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::OwnedSemaphorePermit;

use super::handshake::{Terms, violation};
use super::job::{Answer, Job};
use crate::IoVector;
use crate::fields::Fields;
use crate::nbd::failure::{Failure, shown};
use crate::nbd::stream;
use crate::nbd::wire::*;

/// Longest payload of a chunk that is not data, bytes: an error with a longest text.
const LONGEST_PAYLOAD: u64 = 6 + MAXIMUM_STRING as u64 + 8;

/// A request that was sent.
struct Sent {
    job: Job,
    /// How many bytes of a read have come.
    received: u64,
    /// The first error that was told.
    failure: Option<Failure>,
    extent: Option<Extent>,
    _place: OwnedSemaphorePermit,
}

/// The requests that were sent on one connection.
#[derive(Default)]
pub(super) struct Table {
    // Lock order: alone.
    sent: Mutex<HashMap<u64, Sent>>,
}

/// What a reply is to.
struct Asked {
    command: u16,
    offset: u64,
    length: u64,
    memory: IoVector,
    received: u64,
}

impl Asked {
    /// The memory for `length` bytes at `offset` of the disk.
    fn room(&self, offset: u64, length: u64) -> io::Result<IoVector> {
        let from = offset.checked_sub(self.offset);
        let is_within = |from: &u64| from.checked_add(length).is_some_and(|end| end <= self.length);
        match from.filter(is_within) {
            Some(from) if self.command == NBD_CMD_READ && length > 0 && length <= self.length - self.received => {
                Ok(self.memory.slice(from as usize, length as usize))
            }
            _ => Err(violation(format!("{length} bytes at {offset} that were not asked for, or came already"))),
        }
    }
}

impl Table {
    /// Keeps a request for its reply.
    pub(super) fn insert(&self, cookie: u64, job: Job, place: OwnedSemaphorePermit) {
        self.sent.lock().insert(cookie, Sent { job, received: 0, failure: None, extent: None, _place: place });
    }

    /// The requests that have no reply, in the order in which they were sent.
    pub(super) fn into_jobs(self) -> impl Iterator<Item = Job> {
        let mut sent: Vec<(u64, Sent)> = self.sent.into_inner().into_iter().collect();
        sent.sort_by_key(|(cookie, _)| *cookie);
        sent.into_iter().map(|(_, sent)| sent.job)
    }

    fn asked(&self, cookie: u64) -> io::Result<Asked> {
        match self.sent.lock().get(&cookie) {
            None => Err(violation(format!("a reply to a request {cookie} that was not sent"))),
            Some(Sent { job, received, .. }) => Ok(Asked {
                command: job.command,
                offset: job.offset,
                length: job.length,
                memory: job.memory.clone(),
                received: *received,
            }),
        }
    }

    fn note(&self, cookie: u64, change: impl FnOnce(&mut Sent)) {
        if let Some(sent) = self.sent.lock().get_mut(&cookie) {
            change(sent);
        }
    }

    fn end(&self, cookie: u64, result: Result<Answer, Failure>) {
        let sent = self.sent.lock().remove(&cookie);
        if let Some(sent) = sent {
            sent.job.end(result);
        }
    }

    /// Takes one reply, or a chunk of one.
    pub(super) async fn take(&self, from: &mut (impl AsyncRead + Unpin), terms: &Terms) -> io::Result<()> {
        let mut magic = [0; ReplyHeader::MAGIC];
        from.read_exact(&mut magic).await?;
        let invalid = |error: crate::FieldError| violation(error.to_string());
        let mut rest = [0; 32];
        let rest = &mut rest[..ReplyHeader::length_after(magic, terms.headers).map_err(invalid)?];
        from.read_exact(rest).await?;
        match ReplyHeader::decode(magic, rest).map_err(invalid)? {
            ReplyHeader::Simple { error, cookie } => self.simple(error, cookie, from, terms).await,
            ReplyHeader::Chunk(header) => self.chunk(header, from, terms).await,
        }
    }

    async fn simple(
        &self,
        error: u32,
        cookie: u64,
        from: &mut (impl AsyncRead + Unpin),
        terms: &Terms,
    ) -> io::Result<()> {
        let asked = self.asked(cookie)?;
        let must_have_chunks = matches!(asked.command, NBD_CMD_READ | NBD_CMD_BLOCK_STATUS);
        if must_have_chunks && terms.headers != Headers::Simple {
            return Err(violation("a simple reply to a request whose reply has chunks"));
        }
        if error != 0 {
            self.end(cookie, Err(Failure::from_wire(error, String::new())));
            return Ok(());
        }
        if asked.command == NBD_CMD_READ {
            stream::receive(from, &asked.memory).await?;
        }
        self.end(cookie, Ok(Answer::Done));
        Ok(())
    }

    async fn chunk(&self, header: ChunkHeader, from: &mut (impl AsyncRead + Unpin), terms: &Terms) -> io::Result<()> {
        let ChunkHeader { flags, kind, cookie, length, .. } = header;
        let asked = self.asked(cookie)?;
        if terms.headers == Headers::Extended && header.offset != asked.offset {
            return Err(violation(format!("a reply for offset {}, where {} was sent", header.offset, asked.offset)));
        }
        let is_last = flags.contains(ReplyFlags::NBD_REPLY_FLAG_DONE);
        if kind == NBD_REPLY_TYPE_OFFSET_DATA && length > 8 {
            let length = length - 8;
            let room = asked.room(from.read_u64().await?, length)?;
            stream::receive(from, &room).await?;
            self.note(cookie, |sent| sent.received += length);
        } else {
            if length > LONGEST_PAYLOAD {
                return Err(violation(format!("a chunk of type {kind} of {length} bytes")));
            }
            let mut payload = vec![0; length as usize];
            from.read_exact(&mut payload).await?;
            self.payload(kind, cookie, is_last, &asked, &payload, terms)?;
        }
        if is_last { self.last(cookie, &asked) } else { Ok(()) }
    }

    /// Takes a chunk that is not data.
    fn payload(
        &self,
        kind: u16,
        cookie: u64,
        is_last: bool,
        asked: &Asked,
        payload: &[u8],
        terms: &Terms,
    ) -> io::Result<()> {
        let invalid = |error: crate::FieldError| violation(error.to_string());
        let mut fields = Fields::new("the chunk", payload);
        match kind {
            NBD_REPLY_TYPE_NONE if payload.is_empty() && is_last => {}
            NBD_REPLY_TYPE_OFFSET_HOLE if payload.len() == 12 => {
                let offset = fields.u64("offset").map_err(invalid)?;
                let length = fields.u32("hole size").map_err(invalid)?.into();
                asked.room(offset, length)?.fill(0);
                self.note(cookie, |sent| sent.received += length);
            }
            _ if kind == Extent::chunk(terms.headers) && asked.command == NBD_CMD_BLOCK_STATUS => {
                let (context, extent) = Extent::decode_first(payload, terms.headers).map_err(invalid)?;
                if Some(context) != terms.allocation || extent.length == 0 {
                    return Err(violation("the status of no blocks, or in a context that was not asked for"));
                }
                self.note(cookie, |sent| sent.extent = Some(extent));
            }
            _ if kind & NBD_REPLY_TYPE_FLAG_ERROR != 0 => {
                let error = fields.u32("error").map_err(invalid)?;
                let length = fields.u16("message length").map_err(invalid)?;
                let text = fields.bytes("message", length.into()).map_err(invalid)?;
                let failure = Failure::from_wire(error, shown(text));
                self.note(cookie, |sent| _ = sent.failure.get_or_insert(failure));
            }
            _ => {
                let (length, command) = (payload.len(), asked.command);
                return Err(violation(format!("a chunk of type {kind} and {length} bytes for command {command}")));
            }
        }
        Ok(())
    }

    /// The reply is whole.
    fn last(&self, cookie: u64, asked: &Asked) -> io::Result<()> {
        let mut result = Ok(Answer::Done);
        let mut is_whole = true;
        self.note(cookie, |sent| {
            result = match (sent.failure.take(), sent.extent) {
                (Some(failure), _) => Err(failure),
                (None, Some(extent)) => Ok(Answer::Extent(extent)),
                (None, None) => {
                    is_whole = match asked.command {
                        NBD_CMD_READ => sent.received == asked.length,
                        command => command != NBD_CMD_BLOCK_STATUS,
                    };
                    Ok(Answer::Done)
                }
            };
        });
        if !is_whole {
            return Err(violation("a reply without all that was asked for"));
        }
        self.end(cookie, result);
        Ok(())
    }
}
