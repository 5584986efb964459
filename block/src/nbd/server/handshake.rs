//! The handshake: options until a client has chosen an export.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::contexts::{Context, MOST_QUERIES};
use super::export::{Exported, Exports};
use super::users::User;
use crate::FieldError;
use crate::fields::Fields;
use crate::nbd::failure::shown;
use crate::nbd::stream::{Stream, skip};
use crate::nbd::tls::ServerTls;
use crate::nbd::wire::*;
use crate::nbd::{MAXIMUM_PAYLOAD, PREFERRED_BLOCK};

/// Most options of a client.
const MOST_OPTIONS: u32 = 1024;
/// Longest option that is read, bytes.
const LONGEST_OPTION: u32 = 64 << 10;
/// Longest option that is passed over, bytes; who sends more is disconnected.
const LONGEST_SKIPPED: u32 = 1 << 20;

/// A client and the export that it has chosen.
pub(super) struct Session {
    pub(super) stream: Stream,
    pub(super) exported: Arc<Exported>,
    /// The client, in the count of the export's.
    pub(super) user: User,
    pub(super) headers: Headers,
    pub(super) contexts: Vec<Context>,
}

/// What was agreed on so far.
struct Haggling<'a> {
    stream: Stream,
    exports: &'a Exports,
    tls: Option<&'a ServerTls>,
    is_secure: bool,
    no_zeroes: bool,
    headers: Headers,
    /// Contexts, and the export that they are of.
    contexts: Option<(String, Vec<Context>)>,
}

/// Replies to an option before the last, by type.
type Replies = Vec<(u32, Vec<u8>)>;

/// An error that is told to the client.
struct Refused {
    reply: u32,
    text: String,
}

fn refuse<T>(reply: u32, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { reply, text: text.into() })
}

impl From<FieldError> for Refused {
    fn from(error: FieldError) -> Refused {
        Refused { reply: NBD_REP_ERR_INVALID, text: error.to_string() }
    }
}

/// What follows from an option.
enum Next {
    /// The next option.
    Option,
    /// The client uses the export.
    Use(Arc<Exported>, User),
    /// Nothing: it goes.
    Leave,
}

fn violation(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Speaks with a client until it has chosen an export; `None`: it chose none, and left.
pub(super) async fn negotiate(
    mut stream: Stream,
    exports: &Exports,
    tls: Option<&ServerTls>,
) -> io::Result<Option<Session>> {
    let mut greeting = Vec::new();
    let flags = HandshakeFlags::NBD_FLAG_FIXED_NEWSTYLE | HandshakeFlags::NBD_FLAG_NO_ZEROES;
    greeting.u64(NBDMAGIC).u64(IHAVEOPT).u16(flags.bits());
    stream.write_all(&greeting).await?;
    let flags = stream.read_u32().await?;
    let Some(flags) = ClientFlags::from_bits(flags) else {
        return Err(violation(format!("client flags {flags:#x}; valid are 0x1 and 0x2")));
    };
    let is_fixed = flags.contains(ClientFlags::NBD_FLAG_C_FIXED_NEWSTYLE);
    let no_zeroes = flags.contains(ClientFlags::NBD_FLAG_C_NO_ZEROES);
    let (headers, contexts) = (Headers::Simple, None);
    let mut haggling = Haggling { stream, exports, tls, is_secure: false, no_zeroes, headers, contexts };
    for _ in 0..MOST_OPTIONS {
        let mut header = [0; OptionHeader::LENGTH];
        haggling.stream.read_exact(&mut header).await?;
        let header = OptionHeader::decode(&header).map_err(io::Error::other)?;
        if !is_fixed && header.option != NBD_OPT_EXPORT_NAME {
            return Err(violation(format!("option {} of a client without fixed newstyle", header.option)));
        }
        match haggling.option(header).await? {
            Next::Option => {}
            Next::Leave => return Ok(None),
            Next::Use(exported, user) => {
                let contexts = haggling.contexts.filter(|(name, _)| *name == exported.export.name);
                let (stream, headers) = (haggling.stream, haggling.headers);
                let contexts = contexts.map(|(_, contexts)| contexts).unwrap_or_default();
                return Ok(Some(Session { stream, exported, user, headers, contexts }));
            }
        }
    }
    Err(violation(format!("more than {MOST_OPTIONS} options")))
}

impl Haggling<'_> {
    /// Takes one option and answers it.
    async fn option(&mut self, OptionHeader { option, length }: OptionHeader) -> io::Result<Next> {
        let must_be_secure = self.tls.is_some() && !self.is_secure;
        if option == NBD_OPT_EXPORT_NAME {
            // It has no answer that says no.
            let name = self.short_data(length, MAXIMUM_STRING as u32).await?;
            if must_be_secure || self.headers == Headers::Extended {
                return Err(violation("NBD_OPT_EXPORT_NAME without TLS, or with extended headers"));
            }
            return self.export_name(&name).await;
        }
        if length > LONGEST_OPTION {
            if length > LONGEST_SKIPPED {
                return Err(violation(format!("an option of {length} bytes; valid are at most {LONGEST_OPTION}")));
            }
            skip(&mut self.stream, length.into()).await?;
            let text = format!("the option has {length} bytes; valid are at most {LONGEST_OPTION}");
            self.reply(option, NBD_REP_ERR_TOO_BIG, text.as_bytes()).await?;
            return Ok(Next::Option);
        }
        let data = self.short_data(length, LONGEST_OPTION).await?;
        if must_be_secure && option != NBD_OPT_STARTTLS && option != NBD_OPT_ABORT {
            self.reply(option, NBD_REP_ERR_TLS_REQD, b"this server wants TLS first").await?;
            return Ok(Next::Option);
        }
        let answered = match option {
            NBD_OPT_ABORT => {
                // The client need not wait for it.
                let _ = self.reply(option, NBD_REP_ACK, &[]).await;
                return Ok(Next::Leave);
            }
            NBD_OPT_STARTTLS => match self.may_start_tls(&data) {
                Ok(tls) => return self.start_tls(tls).await,
                Err(refused) => Err(refused),
            },
            NBD_OPT_LIST => self.list(&data),
            NBD_OPT_INFO => self.info(&data).map(|(_, _, replies)| replies),
            NBD_OPT_GO => match self.info(&data) {
                Ok((exported, user, replies)) => {
                    self.answer(option, &replies).await?;
                    return Ok(Next::Use(exported, user));
                }
                Err(refused) => Err(refused),
            },
            NBD_OPT_STRUCTURED_REPLY => self.headers(&data, Headers::Structured),
            NBD_OPT_EXTENDED_HEADERS => self.headers(&data, Headers::Extended),
            NBD_OPT_LIST_META_CONTEXT => self.meta_context(&data, true),
            NBD_OPT_SET_META_CONTEXT => {
                self.contexts = None;
                self.meta_context(&data, false)
            }
            _ => refuse(NBD_REP_ERR_UNSUP, format!("option {option} is not known")),
        };
        match answered {
            Ok(replies) => self.answer(option, &replies).await?,
            Err(Refused { reply, text }) => self.reply(option, reply, text.as_bytes()).await?,
        }
        Ok(Next::Option)
    }

    /// What follows the header of an option.
    async fn short_data(&mut self, length: u32, most: u32) -> io::Result<Vec<u8>> {
        if length > most {
            return Err(violation(format!("an option of {length} bytes; valid are at most {most}")));
        }
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data).await?;
        Ok(data)
    }

    async fn reply(&mut self, option: u32, reply: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        OptionReplyHeader { option, reply, length: data.len() as u32 }.encode(&mut bytes);
        bytes.bytes(data);
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await
    }

    /// Replies, and that they were all.
    async fn answer(&mut self, option: u32, replies: &Replies) -> io::Result<()> {
        for (reply, data) in replies {
            self.reply(option, *reply, data).await?;
        }
        self.reply(option, NBD_REP_ACK, &[]).await
    }

    async fn export_name(&mut self, name: &[u8]) -> io::Result<Next> {
        let entered = std::str::from_utf8(name).ok().and_then(|name| self.exports.enter(name));
        let Some((exported, user)) = entered else {
            return Err(violation(format!("no export named '{}'", shown(name))));
        };
        let export = &exported.export;
        let mut answer = Vec::new();
        answer.u64(export.backend.length()).u16(export.flags(self.headers != Headers::Simple).bits());
        if !self.no_zeroes {
            answer.bytes(&[0; EXPORT_NAME_ZEROES]);
        }
        self.stream.write_all(&answer).await?;
        self.stream.flush().await?;
        Ok(Next::Use(exported, user))
    }

    fn may_start_tls(&self, data: &[u8]) -> Result<ServerTls, Refused> {
        no_data(data)?;
        match self.tls {
            None => refuse(NBD_REP_ERR_POLICY, "this server has no TLS"),
            Some(_) if self.is_secure => refuse(NBD_REP_ERR_INVALID, "TLS is in use already"),
            Some(tls) => Ok(tls.clone()),
        }
    }

    async fn start_tls(&mut self, tls: ServerTls) -> io::Result<Next> {
        self.reply(NBD_OPT_STARTTLS, NBD_REP_ACK, &[]).await?;
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        self.stream = tls.accept(plain).await?;
        self.is_secure = true;
        self.headers = Headers::Simple;
        self.contexts = None;
        Ok(Next::Option)
    }

    fn list(&self, data: &[u8]) -> Result<Replies, Refused> {
        no_data(data)?;
        let entry = |export: super::ExportInfo| {
            let mut data = Vec::new();
            data.u32(export.name.len() as u32).bytes(export.name.as_bytes());
            data.bytes(export.description.unwrap_or_default().as_bytes());
            (NBD_REP_SERVER, data)
        };
        Ok(self.exports.list().into_iter().map(entry).collect())
    }

    /// The export that is asked for, and what is told of it.
    fn info(&self, data: &[u8]) -> Result<(Arc<Exported>, User, Replies), Refused> {
        let mut fields = Fields::new("the option", data);
        let name = string(&mut fields, "export name")?;
        let count = fields.u16("number of information requests")?;
        let wanted = (0..count).map(|_| fields.u16("information request")).collect::<Result<Vec<_>, _>>()?;
        no_more(&fields)?;
        let Some((exported, user)) = self.exports.enter(&name) else { return no_export(&name) };
        let export = &exported.export;
        let mut replies = Vec::new();
        let mut tell = |kind: u16, fill: &dyn Fn(&mut Vec<u8>)| {
            let mut data = Vec::new();
            fill(data.u16(kind));
            replies.push((NBD_REP_INFO, data));
        };
        if wanted.contains(&NBD_INFO_NAME) {
            tell(NBD_INFO_NAME, &|data| _ = data.bytes(export.name.as_bytes()));
        }
        if let (true, Some(text)) = (wanted.contains(&NBD_INFO_DESCRIPTION), &export.description) {
            tell(NBD_INFO_DESCRIPTION, &|data| _ = data.bytes(text.as_bytes()));
        }
        // Requests of any offset and length are served, but some take longer.
        let alignment = export.backend.node().map_or(1, |node| node.driver().alignment());
        let preferred = (alignment as u32).max(PREFERRED_BLOCK);
        tell(NBD_INFO_BLOCK_SIZE, &|data| _ = data.u32(1).u32(preferred).u32(MAXIMUM_PAYLOAD));
        let flags = export.flags(self.headers != Headers::Simple);
        tell(NBD_INFO_EXPORT, &|data| _ = data.u64(export.backend.length()).u16(flags.bits()));
        Ok((exported, user, replies))
    }

    fn headers(&mut self, data: &[u8], headers: Headers) -> Result<Replies, Refused> {
        no_data(data)?;
        if headers < self.headers {
            return refuse(NBD_REP_ERR_INVALID, "extended headers are agreed on already");
        }
        self.headers = headers;
        Ok(Vec::new())
    }

    fn meta_context(&mut self, data: &[u8], is_list: bool) -> Result<Replies, Refused> {
        if self.headers == Headers::Simple {
            return refuse(NBD_REP_ERR_INVALID, "contexts need structured replies; ask for those first");
        }
        let mut fields = Fields::new("the option", data);
        let name = string(&mut fields, "export name")?;
        let count = fields.u32("number of queries")?;
        if count > MOST_QUERIES {
            return refuse(NBD_REP_ERR_TOO_BIG, format!("{count} queries; valid are at most {MOST_QUERIES}"));
        }
        let queries = (0..count).map(|_| string(&mut fields, "query")).collect::<Result<Vec<_>, _>>()?;
        no_more(&fields)?;
        if let Some(query) = queries.iter().find(|query| !query.contains(':')) {
            return refuse(NBD_REP_ERR_INVALID, format!("the query '{query}' has no namespace and colon"));
        }
        let Some(exported) = self.exports.get(&name) else { return no_export(&name) };
        let contexts = Context::matching(&exported.export, &queries, is_list);
        let reply = |context: &Context| {
            let mut data = Vec::new();
            // In a list the numbers mean nothing.
            data.u32(if is_list { 0 } else { context.id() });
            data.bytes(context.name(&exported.export).as_bytes());
            (NBD_REP_META_CONTEXT, data)
        };
        let replies = contexts.iter().map(reply).collect();
        if !is_list {
            self.contexts = Some((name, contexts));
        }
        Ok(replies)
    }
}

fn no_export<T>(name: &str) -> Result<T, Refused> {
    refuse(NBD_REP_ERR_UNKNOWN, format!("there is no export named '{name}'"))
}

/// A string behind its length.
fn string(fields: &mut Fields, field: &'static str) -> Result<String, Refused> {
    let length = fields.u32(field)? as usize;
    if length > MAXIMUM_STRING {
        return refuse(NBD_REP_ERR_INVALID, format!("{field} of {length} bytes; valid are at most {MAXIMUM_STRING}"));
    }
    Ok(fields.text(field, length)?)
}

fn no_data(data: &[u8]) -> Result<(), Refused> {
    if data.is_empty() { Ok(()) } else { refuse(NBD_REP_ERR_INVALID, "this option has no data") }
}

fn no_more(fields: &Fields) -> Result<(), Refused> {
    match fields.left() {
        0 => Ok(()),
        left => refuse(NBD_REP_ERR_INVALID, format!("the option has {left} bytes more than its fields")),
    }
}
