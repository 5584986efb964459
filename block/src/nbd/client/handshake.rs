//! The handshake: what we ask of a server until its export can be used.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::FieldError;
use crate::fields::Fields;
use crate::nbd::MAXIMUM_PAYLOAD;
use crate::nbd::failure::shown;
use crate::nbd::stream::{Stream, skip};
use crate::nbd::tls::ClientTls;
use crate::nbd::wire::*;

/// Longest reply to an option, bytes.
const LONGEST_REPLY: u32 = 64 << 10;
/// Most replies to an option.
const MOST_REPLIES: u32 = 1024;
/// The context of holes and zeros.
const ALLOCATION: &[u8] = b"base:allocation";
/// Largest block that a server may insist on, bytes.
const LARGEST_MINIMUM: u32 = 64 << 10;
/// What a length is a multiple of where servers that do not speak of blocks want it, bytes.
const SECTOR: u64 = 512;

/// An export that can be used.
pub(super) struct Agreed {
    pub(super) stream: Stream,
    pub(super) terms: Terms,
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Of the disk, bytes.
    pub(super) length: u64,
    pub(super) flags: TransmissionFlags,
    pub(super) headers: Headers,
    /// The number of the context of holes and zeros, if the server has it.
    pub(super) allocation: Option<u32>,
    /// What offsets and lengths must be multiples of, bytes: a power of two.
    pub(super) minimum: u32,
    /// Most bytes of data in a request: a multiple of the minimum.
    pub(super) maximum: u32,
}

/// A reply to an option.
struct Reply {
    kind: u32,
    data: Vec<u8>,
}

impl Reply {
    fn is_error(&self) -> bool {
        self.kind & NBD_REP_FLAG_ERROR != 0
    }

    /// The server's words.
    fn words(&self) -> String {
        let name = match self.kind {
            NBD_REP_ERR_UNSUP => "not supported",
            NBD_REP_ERR_POLICY => "not allowed",
            NBD_REP_ERR_INVALID => "invalid",
            NBD_REP_ERR_TLS_REQD => "TLS is required",
            NBD_REP_ERR_UNKNOWN => "no such export",
            NBD_REP_ERR_TOO_BIG => "too big",
            _ => "refused",
        };
        if self.data.is_empty() { name.into() } else { format!("{name} ({})", shown(&self.data)) }
    }
}

pub(super) fn violation(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

fn field(error: FieldError) -> io::Error {
    violation(error.to_string())
}

/// Agrees with a server on the use of an export.
pub(super) async fn negotiate(stream: Stream, export: &str, tls: Option<&ClientTls>) -> io::Result<Agreed> {
    let mut haggling = Haggling { stream };
    let no_zeroes = haggling.greet().await?;
    match haggling.agree(export, tls, no_zeroes).await {
        Ok(terms) => Ok(Agreed { stream: haggling.stream, terms }),
        Err(error) => {
            // The server may note that it was no accident.
            let _ = haggling.send(NBD_OPT_ABORT, &[]).await;
            Err(error)
        }
    }
}

/// Checks what the server says of its export.
fn check(terms: Terms) -> io::Result<Terms> {
    let Terms { length, minimum, maximum, .. } = terms;
    if i64::try_from(length).is_err() {
        return Err(violation(format!("a disk of {length} bytes; valid are less than 2^63")));
    }
    if !minimum.is_power_of_two() || minimum > LARGEST_MINIMUM || maximum < minimum {
        return Err(violation(format!(
            "blocks of {minimum} to {maximum} bytes; valid are powers of two up to 65536, and not more than the largest"
        )));
    }
    if !length.is_multiple_of(minimum.into()) {
        return Err(violation(format!("a disk of {length} bytes, which is not a multiple of its blocks of {minimum}")));
    }
    Ok(Terms { maximum: maximum.min(MAXIMUM_PAYLOAD) / minimum * minimum, ..terms })
}

/// A server that is asked for this and that.
struct Haggling {
    stream: Stream,
}

impl Haggling {
    /// Asks for all that we use, and for the export.
    async fn agree(&mut self, export: &str, tls: Option<&ClientTls>, no_zeroes: bool) -> io::Result<Terms> {
        if let Some(tls) = tls {
            let reply = self.ask(NBD_OPT_STARTTLS, &[], |_| Ok(())).await?;
            if reply.is_error() {
                return Err(io::Error::other(format!("the server does not start TLS: {}", reply.words())));
            }
            let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
            self.stream = tls.connect(plain).await?;
        }
        let mut headers = Headers::Simple;
        for (option, wanted) in
            [(NBD_OPT_EXTENDED_HEADERS, Headers::Extended), (NBD_OPT_STRUCTURED_REPLY, Headers::Structured)]
        {
            if !self.ask(option, &[], |_| Ok(())).await?.is_error() {
                headers = wanted;
                break;
            }
        }
        let allocation = if headers == Headers::Simple { None } else { self.allocation(export).await? };
        let terms = self.go(export, no_zeroes).await?;
        check(Terms { headers, allocation, ..terms })
    }

    /// Exchanges what comes first; true: we agreed to do without zeros.
    async fn greet(&mut self) -> io::Result<bool> {
        let (first, second) = (self.stream.read_u64().await?, self.stream.read_u64().await?);
        if first != NBDMAGIC || second != IHAVEOPT {
            return Err(violation("what answers is no NBD server, or one of the old style; valid is fixed newstyle"));
        }
        let flags = HandshakeFlags::from_bits_truncate(self.stream.read_u16().await?);
        if !flags.contains(HandshakeFlags::NBD_FLAG_FIXED_NEWSTYLE) {
            return Err(violation("the server does not offer fixed newstyle"));
        }
        let no_zeroes = flags.contains(HandshakeFlags::NBD_FLAG_NO_ZEROES);
        let mut answer = ClientFlags::NBD_FLAG_C_FIXED_NEWSTYLE;
        answer.set(ClientFlags::NBD_FLAG_C_NO_ZEROES, no_zeroes);
        self.stream.write_all(&answer.bits().to_be_bytes()).await?;
        self.stream.flush().await?;
        Ok(no_zeroes)
    }

    async fn send(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        OptionHeader { option, length: data.len() as u32 }.encode(&mut bytes);
        bytes.bytes(data);
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await
    }

    async fn reply(&mut self, to: u32) -> io::Result<Reply> {
        let mut header = [0; OptionReplyHeader::LENGTH];
        self.stream.read_exact(&mut header).await?;
        let OptionReplyHeader { option, reply, length } = OptionReplyHeader::decode(&header).map_err(field)?;
        if option != to {
            return Err(violation(format!("a reply to option {option}, where option {to} was sent")));
        }
        if length > LONGEST_REPLY {
            let text = format!("a reply of {length} bytes to option {option}; valid are at most {LONGEST_REPLY}");
            return Err(violation(text));
        }
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data).await?;
        Ok(Reply { kind: reply, data })
    }

    /// Sends an option, and takes the replies; gives the last, which says that it is done or is an error.
    async fn ask(
        &mut self,
        option: u32,
        data: &[u8],
        mut take: impl FnMut(Reply) -> io::Result<()>,
    ) -> io::Result<Reply> {
        self.send(option, data).await?;
        for _ in 0..MOST_REPLIES {
            let reply = self.reply(option).await?;
            if reply.kind == NBD_REP_ACK || reply.is_error() {
                return Ok(reply);
            }
            take(reply)?;
        }
        Err(violation(format!("more than {MOST_REPLIES} replies to option {option}")))
    }

    /// Chooses the context of holes and zeros; gives its number if the server has it.
    async fn allocation(&mut self, export: &str) -> io::Result<Option<u32>> {
        let mut data = Vec::new();
        data.u32(export.len() as u32).bytes(export.as_bytes()).u32(1);
        data.u32(ALLOCATION.len() as u32).bytes(ALLOCATION);
        let mut found = None;
        let reply = self.ask(NBD_OPT_SET_META_CONTEXT, &data, |reply| {
            let mut fields = Fields::new("the metadata context", &reply.data);
            let id = fields.u32("ID").map_err(field)?;
            let name = fields.bytes("name", fields.left()).map_err(field)?;
            if reply.kind != NBD_REP_META_CONTEXT || name != ALLOCATION {
                return Err(violation("a metadata context that nobody asked for"));
            }
            found = Some(id);
            Ok(())
        });
        Ok(if reply.await?.is_error() { None } else { found })
    }

    /// Chooses the export.
    async fn go(&mut self, export: &str, no_zeroes: bool) -> io::Result<Terms> {
        let mut data = Vec::new();
        data.u32(export.len() as u32).bytes(export.as_bytes()).u16(1).u16(NBD_INFO_BLOCK_SIZE);
        let (mut size, mut blocks) = (None, None);
        let reply = self.ask(NBD_OPT_GO, &data, |reply| {
            if reply.kind != NBD_REP_INFO {
                return Err(violation(format!("a reply of type {} to NBD_OPT_GO", reply.kind)));
            }
            let mut fields = Fields::new("the information on the export", &reply.data);
            match fields.u16("type").map_err(field)? {
                NBD_INFO_EXPORT => {
                    size = Some((fields.u64("size").map_err(field)?, fields.u16("flags").map_err(field)?));
                }
                NBD_INFO_BLOCK_SIZE => {
                    let minimum = fields.u32("minimum block size").map_err(field)?;
                    fields.u32("preferred block size").map_err(field)?;
                    blocks = Some((minimum, fields.u32("maximum block size").map_err(field)?));
                }
                _ => {}
            }
            Ok(())
        });
        let reply = reply.await?;
        if reply.kind == NBD_REP_ERR_UNSUP {
            size = Some(self.export_name(export, no_zeroes).await?);
        } else if reply.is_error() {
            return Err(io::Error::other(format!("the server does not give export '{export}': {}", reply.words())));
        }
        let Some((length, flags)) = size else { return Err(violation("an export without a size")) };
        // A server that says nothing may not serve parts of sectors.
        let usual = if length.is_multiple_of(SECTOR) { SECTOR as u32 } else { 1 };
        let (minimum, maximum) = blocks.unwrap_or((usual, MAXIMUM_PAYLOAD));
        let flags = TransmissionFlags::from_bits_truncate(flags);
        Ok(Terms { length, flags, headers: Headers::Simple, allocation: None, minimum, maximum })
    }

    /// Chooses the export of a server that does not know a better way.
    async fn export_name(&mut self, export: &str, no_zeroes: bool) -> io::Result<(u64, u16)> {
        self.send(NBD_OPT_EXPORT_NAME, export.as_bytes()).await?;
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::other(format!("the server does not give export '{export}'")),
            _ => error,
        };
        let length = self.stream.read_u64().await.map_err(missing)?;
        let flags = self.stream.read_u16().await?;
        if !no_zeroes {
            skip(&mut self.stream, EXPORT_NAME_ZEROES as u64).await?;
        }
        Ok((length, flags))
    }
}
