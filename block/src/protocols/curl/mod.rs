//! The `http`, `https`, `ftp` and `ftps` protocols: a file on a server, which is only read.
//!
//! Transfers run on threads that wait for them, several at once. Nothing that a server says decides how much is read or kept, and
//! each transfer ends after a time.

#[cfg(test)]
mod tests;
mod transfer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::driver::Driver;
use crate::{Error, IoVector};
use transfer::{Connection, Head};

/// Most transfers at once, and most stretches that are kept.
const AT_ONCE: usize = 8;
/// Most bytes that are asked for at once, without those that are read ahead.
const PART: u64 = 1 << 20;
/// Longest time that a transfer may be allowed to take, seconds.
const LONGEST: u64 = 10000;
/// What reading ahead is counted in, bytes.
const SECTOR: u64 = 512;

/// Which of the drivers it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurlProtocol {
    /// `http`.
    Http,
    /// `https`.
    Https,
    /// `ftp`.
    Ftp,
    /// `ftps`.
    Ftps,
}

impl CurlProtocol {
    /// The protocols, by the name of the driver, which URLs begin with.
    pub const ALL: [(&str, CurlProtocol); 4] = [
        ("http", CurlProtocol::Http),
        ("https", CurlProtocol::Https),
        ("ftp", CurlProtocol::Ftp),
        ("ftps", CurlProtocol::Ftps),
    ];

    /// Name of the driver.
    pub fn name(self) -> &'static str {
        match self {
            CurlProtocol::Http => "http",
            CurlProtocol::Https => "https",
            CurlProtocol::Ftp => "ftp",
            CurlProtocol::Ftps => "ftps",
        }
    }

    /// Replies have a status, and say which bytes they have.
    fn is_http(self) -> bool {
        matches!(self, CurlProtocol::Http | CurlProtocol::Https)
    }
}

/// QEMU's `BlockdevOptionsCurlHttp` and the like. Secrets are given as what they are, not by name.
#[derive(Clone, PartialEq, Eq)]
pub struct CurlOptions {
    /// The file's URL, which begins with the driver's name.
    pub url: String,
    /// Bytes that are read ahead, a multiple of 512; 256 KiB if it is not given.
    pub readahead: u64,
    /// Seconds that a transfer may take; 5 if it is not given, and 0 for any time.
    pub timeout: u64,
    /// Who reads (`username`).
    pub username: Option<String>,
    /// The secret that belongs to it (`password-secret`).
    pub password: Option<String>,
    /// Who uses the proxy (`proxy-username`).
    pub proxy_username: Option<String>,
    /// The secret that belongs to it (`proxy-password-secret`).
    pub proxy_password: Option<String>,
    /// What the server is sent as cookies (`cookie` or `cookie-secret`); HTTP only.
    pub cookie: Option<String>,
    /// The server must prove who it is (`sslverify`); true if it is not given.
    pub sslverify: bool,
}

impl CurlOptions {
    /// The file at a URL, and nothing else given.
    pub fn of(url: impl Into<String>) -> CurlOptions {
        CurlOptions {
            url: url.into(),
            readahead: 256 << 10,
            timeout: 5,
            username: None,
            password: None,
            proxy_username: None,
            proxy_password: None,
            cookie: None,
            sslverify: true,
        }
    }

    fn check(&self, protocol: CurlProtocol) -> Result<(), Error> {
        let refused = |text: String| Err(Error::Unsupported(text));
        let (name, url) = (protocol.name(), &self.url);
        if url.strip_prefix(name).is_none_or(|rest| !rest.starts_with("://")) {
            return refused(format!(
                "{name} curl driver cannot handle the URL '{url}' (does not start with '{name}://')"
            ));
        }
        if !self.readahead.is_multiple_of(SECTOR) {
            return refused(format!("HTTP_READAHEAD_SIZE {} is not a multiple of 512", self.readahead));
        }
        if self.timeout > LONGEST {
            return refused("timeout parameter is too large or negative".into());
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// A file on a server.
pub struct Curl {
    protocol: CurlProtocol,
    options: Arc<CurlOptions>,
    length: u64,
    transfers: Semaphore,
    // Lock order: alone.
    idle: Mutex<Vec<Connection>>,
    /// What was read last, by offset.
    // Lock order: alone.
    kept: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
}

impl Curl {
    /// Asks the server for the file's length, and whether parts of it can be read.
    pub async fn open(protocol: CurlProtocol, options: CurlOptions) -> Result<Curl, Error> {
        options.check(protocol)?;
        let failed = |why: String| Error::Unsupported(format!("CURL: Error opening file: {why}"));
        let options = Arc::new(options);
        let asked = options.clone();
        let asking = blocking::unblock(move || {
            let mut connection = Connection::new(&asked, protocol)?;
            let head = connection.head()?;
            Ok((connection, head))
        });
        let (connection, Head { length, accepts_ranges }) = asking.await.map_err(failed)?;
        let length = length.ok_or_else(|| failed("Server didn't report file size.".into()))?;
        if protocol.is_http() && !accepts_ranges {
            return Err(failed("Server does not support 'range' (byte ranges).".into()));
        }
        Ok(Curl {
            protocol,
            options,
            length,
            transfers: Semaphore::new(AT_ONCE),
            idle: Mutex::new(vec![connection]),
            kept: Mutex::default(),
        })
    }

    /// What was read of a stretch before.
    fn kept(&self, offset: u64, length: u64) -> Option<(u64, Arc<Vec<u8>>)> {
        let kept = self.kept.lock();
        let has =
            |(start, bytes): &&(u64, Arc<Vec<u8>>)| *start <= offset && offset - start + length <= bytes.len() as u64;
        kept.iter().find(has).cloned()
    }

    /// The bytes of a stretch within the file, and maybe more behind them: where they begin, and what they are.
    async fn fetch(&self, offset: u64, length: u64) -> Result<(u64, Arc<Vec<u8>>), Error> {
        if let Some(kept) = self.kept(offset, length) {
            return Ok(kept);
        }
        let failed = |why: String| Error::host("read", std::io::Error::other(format!("CURL: {why}")));
        let _permit = self.transfers.acquire().await.map_err(|error| failed(error.to_string()))?;
        // Who was before may have read it.
        if let Some(kept) = self.kept(offset, length) {
            return Ok(kept);
        }
        let wanted = length.saturating_add(self.options.readahead).min(self.length - offset);
        let (idle, options, protocol) = (self.idle.lock().pop(), self.options.clone(), self.protocol);
        let whole = self.length;
        let reading = blocking::unblock(move || {
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::new(&options, protocol)?,
            };
            let bytes = connection.read(offset, wanted, whole)?;
            Ok((connection, bytes))
        });
        let (connection, bytes) = reading.await.map_err(failed)?;
        self.idle.lock().push(connection);
        let fetched = (offset, Arc::new(bytes));
        let mut kept = self.kept.lock();
        kept.truncate(AT_ONCE - 1);
        kept.push_front(fetched.clone());
        Ok(fetched)
    }
}

#[async_trait]
impl Driver for Curl {
    fn name(&self) -> &'static str {
        self.protocol.name()
    }
    fn length(&self) -> u64 {
        self.length
    }
    fn is_read_only(&self) -> bool {
        true
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let inside = self.length.saturating_sub(offset).min(to.len() as u64);
        to.slice(inside as usize, to.len() - inside as usize).fill(0);
        let mut done = 0;
        while done < inside {
            let (at, part) = (offset + done, (inside - done).min(PART));
            let (start, bytes) = self.fetch(at, part).await?;
            let first = (at - start) as usize;
            to.slice(done as usize, part as usize).copy_from(&bytes[first..first + part as usize]);
            done += part;
        }
        Ok(())
    }
    async fn write(&self, _offset: u64, _from: IoVector) -> Result<(), Error> {
        Err(Error::ReadOnly)
    }
    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
