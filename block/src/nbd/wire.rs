//! What is on the wire: numbers, flags and structures, with their names in the protocol document. All numbers are big-endian.

use bitflags::bitflags;

use crate::FieldError;
use crate::fields::Fields;

/// First of what a server sends: the letters `NBDMAGIC`.
pub(super) const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second of what a server of the newstyle sends, and first of each option: the letters `IHAVEOPT`.
pub(super) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// First of each reply to an option.
pub(super) const NBD_OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First of a request.
pub(super) const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
/// First of a request with an extended header.
pub(super) const NBD_EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First of a simple reply.
pub(super) const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First of a chunk of a structured reply.
pub(super) const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First of a chunk of a reply with an extended header.
pub(super) const NBD_EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Longest string, bytes.
pub(super) const MAXIMUM_STRING: usize = 4096;
/// Zeros behind the answer to [`NBD_OPT_EXPORT_NAME`] of a client that did not do without.
pub(super) const EXPORT_NAME_ZEROES: usize = 124;

bitflags! {
    /// What the server can do in the handshake.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct HandshakeFlags: u16 {
        const NBD_FLAG_FIXED_NEWSTYLE = 1 << 0;
        const NBD_FLAG_NO_ZEROES = 1 << 1;
    }

    /// What the client can do in the handshake.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct ClientFlags: u32 {
        const NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0;
        const NBD_FLAG_C_NO_ZEROES = 1 << 1;
    }

    /// What an export can do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct TransmissionFlags: u16 {
        const NBD_FLAG_HAS_FLAGS = 1 << 0;
        const NBD_FLAG_READ_ONLY = 1 << 1;
        const NBD_FLAG_SEND_FLUSH = 1 << 2;
        const NBD_FLAG_SEND_FUA = 1 << 3;
        const NBD_FLAG_SEND_TRIM = 1 << 5;
        const NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6;
        const NBD_FLAG_SEND_DF = 1 << 7;
        const NBD_FLAG_CAN_MULTI_CONN = 1 << 8;
        const NBD_FLAG_SEND_CACHE = 1 << 10;
        const NBD_FLAG_SEND_FAST_ZERO = 1 << 11;
    }

    /// How a request is meant.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct CommandFlags: u16 {
        const NBD_CMD_FLAG_FUA = 1 << 0;
        const NBD_CMD_FLAG_NO_HOLE = 1 << 1;
        const NBD_CMD_FLAG_DF = 1 << 2;
        const NBD_CMD_FLAG_REQ_ONE = 1 << 3;
        const NBD_CMD_FLAG_FAST_ZERO = 1 << 4;
        const NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5;
    }

    /// What a chunk of a reply is to the reply.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct ReplyFlags: u16 {
        const NBD_REPLY_FLAG_DONE = 1 << 0;
    }
}

// Options.
pub(super) const NBD_OPT_EXPORT_NAME: u32 = 1;
pub(super) const NBD_OPT_ABORT: u32 = 2;
pub(super) const NBD_OPT_LIST: u32 = 3;
pub(super) const NBD_OPT_STARTTLS: u32 = 5;
pub(super) const NBD_OPT_INFO: u32 = 6;
pub(super) const NBD_OPT_GO: u32 = 7;
pub(super) const NBD_OPT_STRUCTURED_REPLY: u32 = 8;
pub(super) const NBD_OPT_LIST_META_CONTEXT: u32 = 9;
pub(super) const NBD_OPT_SET_META_CONTEXT: u32 = 10;
pub(super) const NBD_OPT_EXTENDED_HEADERS: u32 = 11;

// Replies to options. Those with the first bit set are errors.
pub(super) const NBD_REP_ACK: u32 = 1;
pub(super) const NBD_REP_SERVER: u32 = 2;
pub(super) const NBD_REP_INFO: u32 = 3;
pub(super) const NBD_REP_META_CONTEXT: u32 = 4;
pub(super) const NBD_REP_FLAG_ERROR: u32 = 1 << 31;
pub(super) const NBD_REP_ERR_UNSUP: u32 = NBD_REP_FLAG_ERROR + 1;
pub(super) const NBD_REP_ERR_POLICY: u32 = NBD_REP_FLAG_ERROR + 2;
pub(super) const NBD_REP_ERR_INVALID: u32 = NBD_REP_FLAG_ERROR + 3;
pub(super) const NBD_REP_ERR_TLS_REQD: u32 = NBD_REP_FLAG_ERROR + 5;
pub(super) const NBD_REP_ERR_UNKNOWN: u32 = NBD_REP_FLAG_ERROR + 6;
pub(super) const NBD_REP_ERR_TOO_BIG: u32 = NBD_REP_FLAG_ERROR + 9;

// Information on an export.
pub(super) const NBD_INFO_EXPORT: u16 = 0;
pub(super) const NBD_INFO_NAME: u16 = 1;
pub(super) const NBD_INFO_DESCRIPTION: u16 = 2;
pub(super) const NBD_INFO_BLOCK_SIZE: u16 = 3;

// Commands.
pub(super) const NBD_CMD_READ: u16 = 0;
pub(super) const NBD_CMD_WRITE: u16 = 1;
pub(super) const NBD_CMD_DISC: u16 = 2;
pub(super) const NBD_CMD_FLUSH: u16 = 3;
pub(super) const NBD_CMD_TRIM: u16 = 4;
pub(super) const NBD_CMD_CACHE: u16 = 5;
pub(super) const NBD_CMD_WRITE_ZEROES: u16 = 6;
pub(super) const NBD_CMD_BLOCK_STATUS: u16 = 7;

// Types of chunks. Those with the first bit set are errors.
pub(super) const NBD_REPLY_TYPE_NONE: u16 = 0;
pub(super) const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
pub(super) const NBD_REPLY_TYPE_OFFSET_HOLE: u16 = 2;
pub(super) const NBD_REPLY_TYPE_BLOCK_STATUS: u16 = 5;
pub(super) const NBD_REPLY_TYPE_BLOCK_STATUS_EXT: u16 = 6;
pub(super) const NBD_REPLY_TYPE_FLAG_ERROR: u16 = 1 << 15;
pub(super) const NBD_REPLY_TYPE_ERROR: u16 = NBD_REPLY_TYPE_FLAG_ERROR + 1;

// Status in `base:allocation`.
pub(super) const NBD_STATE_HOLE: u32 = 1 << 0;
pub(super) const NBD_STATE_ZERO: u32 = 1 << 1;
/// Status in `qemu:dirty-bitmap:NAME`.
pub(super) const NBD_STATE_DIRTY: u32 = 1 << 0;

// Errors of requests.
pub(super) const NBD_EPERM: u32 = 1;
pub(super) const NBD_EIO: u32 = 5;
pub(super) const NBD_ENOMEM: u32 = 12;
pub(super) const NBD_EINVAL: u32 = 22;
pub(super) const NBD_ENOSPC: u32 = 28;
pub(super) const NBD_EOVERFLOW: u32 = 75;
pub(super) const NBD_ENOTSUP: u32 = 95;
pub(super) const NBD_ESHUTDOWN: u32 = 108;

/// Puts numbers behind bytes.
pub(super) trait Put {
    fn u16(&mut self, value: u16) -> &mut Self;
    fn u32(&mut self, value: u32) -> &mut Self;
    fn u64(&mut self, value: u64) -> &mut Self;
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self;
}

impl Put for Vec<u8> {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }
}

fn check_magic(is: u64, valid: u64, field: &'static str) -> Result<(), FieldError> {
    if is == valid { Ok(()) } else { Err(FieldError::value(field, is, format!("valid is {valid:#x}"))) }
}

/// What begins an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OptionHeader {
    pub(super) option: u32,
    /// Of what follows, bytes.
    pub(super) length: u32,
}

impl OptionHeader {
    pub(super) const LENGTH: usize = 16;

    pub(super) fn decode(bytes: &[u8]) -> Result<OptionHeader, FieldError> {
        let mut fields = Fields::new("the option", bytes);
        check_magic(fields.u64("IHAVEOPT")?, IHAVEOPT, "the magic of an option")?;
        Ok(OptionHeader { option: fields.u32("option")?, length: fields.u32("length")? })
    }

    pub(super) fn encode(self, to: &mut Vec<u8>) {
        to.u64(IHAVEOPT).u32(self.option).u32(self.length);
    }
}

/// What begins a reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OptionReplyHeader {
    pub(super) option: u32,
    pub(super) reply: u32,
    /// Of what follows, bytes.
    pub(super) length: u32,
}

impl OptionReplyHeader {
    pub(super) const LENGTH: usize = 20;

    pub(super) fn decode(bytes: &[u8]) -> Result<OptionReplyHeader, FieldError> {
        let mut fields = Fields::new("the reply to an option", bytes);
        check_magic(fields.u64("magic")?, NBD_OPTION_REPLY_MAGIC, "the magic of a reply to an option")?;
        Ok(OptionReplyHeader {
            option: fields.u32("option")?,
            reply: fields.u32("reply type")?,
            length: fields.u32("length")?,
        })
    }

    pub(super) fn encode(self, to: &mut Vec<u8>) {
        to.u64(NBD_OPTION_REPLY_MAGIC).u32(self.option).u32(self.reply).u32(self.length);
    }
}

/// Which headers are spoken after the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Headers {
    /// Simple replies alone.
    #[default]
    Simple,
    /// Replies may be in chunks.
    Structured,
    /// Requests and chunks have extended headers.
    Extended,
}

/// What begins a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestHeader {
    /// As they came: some may not be known.
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl RequestHeader {
    /// Its own length in bytes.
    pub(super) fn length_of(headers: Headers) -> usize {
        if headers == Headers::Extended { 32 } else { 28 }
    }

    pub(super) fn decode(bytes: &[u8], headers: Headers) -> Result<RequestHeader, FieldError> {
        let mut fields = Fields::new("the request", bytes);
        let is_extended = headers == Headers::Extended;
        let magic = if is_extended { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC };
        check_magic(fields.u32("magic")?.into(), magic.into(), "the magic of a request")?;
        Ok(RequestHeader {
            flags: fields.u16("command flags")?,
            command: fields.u16("type")?,
            cookie: fields.u64("cookie")?,
            offset: fields.u64("offset")?,
            length: if is_extended { fields.u64("length")? } else { fields.u32("length")?.into() },
        })
    }

    /// Without extended headers, `length` must fit into 32 bits.
    pub(super) fn encode(self, headers: Headers, to: &mut Vec<u8>) {
        let is_extended = headers == Headers::Extended;
        to.u32(if is_extended { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC });
        to.u16(self.flags).u16(self.command).u64(self.cookie).u64(self.offset);
        if is_extended {
            to.u64(self.length)
        } else {
            to.u32(self.length as u32)
        };
    }
}

/// What begins a simple reply, or a chunk of one in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyHeader {
    Simple { error: u32, cookie: u64 },
    Chunk(ChunkHeader),
}

/// What begins a chunk of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    pub(super) flags: ReplyFlags,
    pub(super) kind: u16,
    pub(super) cookie: u64,
    /// The request's; only extended headers have it.
    pub(super) offset: u64,
    /// Of what follows, bytes.
    pub(super) length: u64,
}

impl ChunkHeader {
    /// With structured headers, `length` must fit into 32 bits.
    pub(super) fn encode(self, headers: Headers, to: &mut Vec<u8>) {
        let is_extended = headers == Headers::Extended;
        to.u32(if is_extended { NBD_EXTENDED_REPLY_MAGIC } else { NBD_STRUCTURED_REPLY_MAGIC });
        to.u16(self.flags.bits()).u16(self.kind).u64(self.cookie);
        if is_extended {
            to.u64(self.offset).u64(self.length)
        } else {
            to.u32(self.length as u32)
        };
    }
}

impl ReplyHeader {
    /// Length of the magic, which tells how long the header is.
    pub(super) const MAGIC: usize = 4;

    /// Length of what follows the magic, bytes. Which magics may come is decided by what was agreed on.
    pub(super) fn length_after(magic: [u8; ReplyHeader::MAGIC], headers: Headers) -> Result<usize, FieldError> {
        match (u32::from_be_bytes(magic), headers) {
            (NBD_SIMPLE_REPLY_MAGIC, Headers::Simple | Headers::Structured) => Ok(12),
            (NBD_STRUCTURED_REPLY_MAGIC, Headers::Structured) => Ok(16),
            (NBD_EXTENDED_REPLY_MAGIC, Headers::Extended) => Ok(28),
            (other, _) => {
                let valid = match headers {
                    Headers::Simple => "valid is 0x67446698",
                    Headers::Structured => "valid are 0x67446698 and 0x668e33ef",
                    Headers::Extended => "valid is 0x6e8a278c",
                };
                Err(FieldError::value("the magic of a reply", other, valid))
            }
        }
    }

    /// The header that has this magic and these bytes after it.
    pub(super) fn decode(magic: [u8; ReplyHeader::MAGIC], rest: &[u8]) -> Result<ReplyHeader, FieldError> {
        let mut fields = Fields::new("the reply", rest);
        let magic = u32::from_be_bytes(magic);
        if magic == NBD_SIMPLE_REPLY_MAGIC {
            return Ok(ReplyHeader::Simple { error: fields.u32("error")?, cookie: fields.u64("cookie")? });
        }
        let is_extended = magic == NBD_EXTENDED_REPLY_MAGIC;
        Ok(ReplyHeader::Chunk(ChunkHeader {
            // Flags that are not known have no meaning for us.
            flags: ReplyFlags::from_bits_truncate(fields.u16("flags")?),
            kind: fields.u16("type")?,
            cookie: fields.u64("cookie")?,
            offset: if is_extended { fields.u64("offset")? } else { 0 },
            length: if is_extended { fields.u64("length")? } else { fields.u32("length")?.into() },
        }))
    }

    pub(super) fn encode_simple(error: u32, cookie: u64, to: &mut Vec<u8>) {
        to.u32(NBD_SIMPLE_REPLY_MAGIC).u32(error).u64(cookie);
    }
}

/// A stretch of the disk with one status: of a reply to [`NBD_CMD_BLOCK_STATUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) length: u64,
    pub(super) flags: u64,
}

impl Extent {
    /// Type of the chunk that has extents.
    pub(super) fn chunk(headers: Headers) -> u16 {
        if headers == Headers::Extended { NBD_REPLY_TYPE_BLOCK_STATUS_EXT } else { NBD_REPLY_TYPE_BLOCK_STATUS }
    }

    /// The payload of the chunk for a context.
    pub(super) fn encode_all(extents: &[Extent], context: u32, headers: Headers, to: &mut Vec<u8>) {
        to.u32(context);
        if headers == Headers::Extended {
            to.u32(extents.len() as u32);
        }
        for extent in extents {
            if headers == Headers::Extended {
                to.u64(extent.length).u64(extent.flags);
            } else {
                to.u32(extent.length as u32).u32(extent.flags as u32);
            }
        }
    }

    /// The context and the first extent of a chunk's payload.
    pub(super) fn decode_first(payload: &[u8], headers: Headers) -> Result<(u32, Extent), FieldError> {
        let mut fields = Fields::new("the status of blocks", payload);
        let context = fields.u32("metadata context ID")?;
        let extent = if headers == Headers::Extended {
            fields.u32("descriptor count")?;
            Extent { length: fields.u64("length")?, flags: fields.u64("status flags")? }
        } else {
            Extent { length: fields.u32("length")?.into(), flags: fields.u32("status flags")?.into() }
        };
        Ok((context, extent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
            let request = RequestHeader { flags: 3, command: 1, cookie: 7, offset: 1 << 40, length: 512 };
            let mut bytes = Vec::new();
            request.encode(headers, &mut bytes);
            assert_eq!(bytes.len(), RequestHeader::length_of(headers));
            assert_eq!(RequestHeader::decode(&bytes, headers).unwrap(), request);
            bytes[0] ^= 1;
            assert!(RequestHeader::decode(&bytes, headers).is_err());
        }
        for headers in [Headers::Structured, Headers::Extended] {
            let offset = if headers == Headers::Extended { 9 } else { 0 };
            let flags = ReplyFlags::NBD_REPLY_FLAG_DONE;
            let chunk = ChunkHeader { flags, kind: NBD_REPLY_TYPE_OFFSET_DATA, cookie: 8, offset, length: 77 };
            let mut bytes = Vec::new();
            chunk.encode(headers, &mut bytes);
            let (magic, rest) = (*bytes.first_chunk().unwrap(), &bytes[4..]);
            assert_eq!(ReplyHeader::length_after(magic, headers).unwrap(), rest.len());
            assert_eq!(ReplyHeader::decode(magic, rest).unwrap(), ReplyHeader::Chunk(chunk));
            assert!(ReplyHeader::length_after(magic, Headers::Simple).is_err());
            let extent = Extent { length: 4096, flags: 3 };
            let mut payload = Vec::new();
            Extent::encode_all(&[extent], 5, headers, &mut payload);
            assert_eq!(Extent::decode_first(&payload, headers).unwrap(), (5, extent));
            assert!(Extent::decode_first(&payload[..payload.len() - 1], headers).is_err());
        }
    }
}
