//! One transfer after the other, with libcurl. Errors are sentences.

use curl::easy::{Easy2, Handler, WriteError};

use super::{CurlOptions, CurlProtocol};

/// Most times that a server may send us elsewhere.
const REDIRECTIONS: u32 = 10;
/// What the server says of a part that it was asked for.
const PARTIAL_CONTENT: u32 = 206;

/// What a server says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: Option<u64>,
    /// It says that parts of the file can be asked for (HTTP).
    pub(super) accepts_ranges: bool,
}

/// Connections to a server, one for what is going on and maybe others that stay open for later.
pub(super) struct Connection {
    easy: Easy2<Reply>,
    is_http: bool,
}

/// What comes of one transfer.
#[derive(Default)]
struct Reply {
    body: Vec<u8>,
    /// How long the body may be.
    most: usize,
    is_too_long: bool,
    /// Only what there is was asked for: libcurl says that here, too, with FTP.
    is_head: bool,
    accepts_ranges: bool,
    /// Where the part that is sent begins in the file.
    start: Option<u64>,
}

impl Handler for Reply {
    fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        if self.is_head {
            return Ok(data.len());
        }
        if data.len() > self.most - self.body.len() {
            self.is_too_long = true;
            // Less than was there ends the transfer.
            return Ok(0);
        }
        self.body.extend_from_slice(data);
        Ok(data.len())
    }

    fn header(&mut self, line: &[u8]) -> bool {
        let line = String::from_utf8_lossy(line);
        if line.starts_with("HTTP/") {
            // Of several replies the last one counts.
            (self.accepts_ranges, self.start) = (false, None);
        }
        if let Some((name, value)) = line.split_once(':') {
            let value = value.trim();
            if name.eq_ignore_ascii_case("accept-ranges") {
                self.accepts_ranges = value.eq_ignore_ascii_case("bytes");
            } else if name.eq_ignore_ascii_case("content-range") {
                let range = value.strip_prefix("bytes").map(str::trim_start);
                self.start = range.and_then(|range| range.split_once('-')?.0.parse().ok());
            }
        }
        true
    }
}

impl Connection {
    pub(super) fn new(options: &CurlOptions, protocol: CurlProtocol) -> Result<Connection, String> {
        let mut easy = Easy2::new(Reply::default());
        let mut set = || {
            easy.url(&options.url)?;
            easy.timeout(options.timeout())?;
            easy.signal(false)?;
            easy.follow_location(true)?;
            easy.max_redirections(REDIRECTIONS)?;
            easy.fail_on_error(true)?;
            easy.ssl_verify_peer(options.sslverify)?;
            easy.ssl_verify_host(options.sslverify)?;
            if let Some(name) = &options.username {
                easy.username(name)?;
            }
            if let Some(password) = &options.password {
                easy.password(password)?;
            }
            if let Some(name) = &options.proxy_username {
                easy.proxy_username(name)?;
            }
            if let Some(password) = &options.proxy_password {
                easy.proxy_password(password)?;
            }
            if let Some(cookie) = &options.cookie {
                easy.cookie(cookie)?;
            }
            Ok(())
        };
        set().map_err(sentence)?;
        Ok(Connection { easy, is_http: protocol.is_http() })
    }

    /// Asks what there is.
    pub(super) fn head(&mut self) -> Result<Head, String> {
        *self.easy.get_mut() = Reply { is_head: true, ..Reply::default() };
        self.easy.nobody(true).map_err(sentence)?;
        self.easy.perform().map_err(sentence)?;
        // The number is whole, or -1 where the server says none.
        let length = self.easy.content_length_download().map_err(sentence)?;
        let length = (length >= 0.0).then_some(length as u64);
        // The next transfer is for the body, and not of what is sent up.
        self.easy.nobody(false).and_then(|()| self.easy.get(true)).map_err(sentence)?;
        Ok(Head { length, accepts_ranges: self.easy.get_ref().accepts_ranges })
    }

    /// Reads a part of the file, which has `whole` bytes.
    pub(super) fn read(&mut self, offset: u64, length: u64, whole: u64) -> Result<Vec<u8>, String> {
        *self.easy.get_mut() = Reply { most: length as usize, ..Reply::default() };
        self.easy.range(&format!("{offset}-{}", offset + length - 1)).map_err(sentence)?;
        let done = self.easy.perform();
        let code = self.easy.response_code().map_err(sentence)?;
        let reply = std::mem::take(self.easy.get_mut());
        if reply.is_too_long {
            return Err(format!("the server sends more than the {length} bytes that it was asked for"));
        }
        done.map_err(sentence)?;
        let is_all = offset == 0 && length == whole;
        if self.is_http && !is_all && (code != PARTIAL_CONTENT || reply.start != Some(offset)) {
            return Err(format!("the server was asked for a part of the file from {offset} on, and sends another"));
        }
        match reply.body.len() {
            received if received as u64 == length => Ok(reply.body),
            received => Err(format!("the server sends {received} bytes and was asked for {length}")),
        }
    }
}

/// What libcurl says of an error, without the number of it.
fn sentence(error: curl::Error) -> String {
    match error.extra_description() {
        Some(more) => more.replace(char::is_control, "\u{fffd}"),
        None => error.description().to_owned(),
    }
}
