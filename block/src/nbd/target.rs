//! Which disk of which server, as users write it.

use std::fmt;
use std::str::FromStr;

use super::Address;

/// The port that is meant where none is named.
const DEFAULT_PORT: u16 = 10809;

/// An export of a server.
///
/// ```text
/// nbd:unix:PATH[:exportname=NAME]
/// nbd:HOST:PORT[:exportname=NAME]
/// nbd://HOST[:PORT]/[NAME]             (also nbd+tcp, and with TLS nbds, nbds+tcp)
/// nbd+unix:///[NAME]?socket=PATH       (with TLS nbds+unix)
/// ```
/// In the last two, `%` and two hexadecimal digits stand for a byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where the server is.
    pub address: Address,
    /// The name of the export; may be empty.
    pub export: String,
    /// The connection must be secure.
    pub tls: bool,
}

/// A description of an export that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It begins with none of the kinds.
    #[error(
        "'{0}' names no NBD export; valid are nbd:unix:PATH, nbd:HOST:PORT, nbd://HOST:PORT/NAME and \
         nbd+unix:///NAME?socket=PATH"
    )]
    Kind(String),
    /// No port.
    #[error("'{0}' names no host and no port between 1 and 65535; an IPv6 address stands in brackets")]
    Port(String),
    /// No socket.
    #[error("'{0}' names no socket; valid are nbd:unix:PATH and nbd+unix:///NAME?socket=PATH, without a host")]
    Socket(String),
    /// Something behind `?` that there is not.
    #[error("'{part}' in '{whole}' is not known; valid is socket=PATH, with nbd+unix")]
    Query {
        /// What it is.
        part: String,
        /// The description.
        whole: String,
    },
    /// A `%` without a byte, or bytes that are no text.
    #[error("'{0}' has a % that is not followed by two hexadecimal digits, or is not text in UTF-8")]
    Percent(String),
}

impl Target {
    /// An export, without TLS.
    pub fn new(address: Address, export: impl Into<String>) -> Target {
        Target { address, export: export.into(), tls: false }
    }

    /// True for what is meant to be a description of an export.
    pub fn is_meant(text: &str) -> bool {
        let kinds = ["nbd:", "nbd+tcp:", "nbd+unix:", "nbds:", "nbds+tcp:", "nbds+unix:"];
        kinds.iter().any(|kind| text.starts_with(kind))
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(whole: &str) -> Result<Target, TargetError> {
        if let Some((scheme, rest)) = whole.split_once("://") {
            return uri(whole, scheme, rest);
        }
        let kind = || TargetError::Kind(whole.into());
        let rest = whole.strip_prefix("nbd:").ok_or_else(kind)?;
        let (place, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
        let address = match place.strip_prefix("unix:") {
            Some("") => return Err(TargetError::Socket(whole.into())),
            Some(path) => Address::Unix(path.into()),
            None => tcp(whole, place, None)?,
        };
        Ok(Target::new(address, export))
    }
}

fn uri(whole: &str, scheme: &str, rest: &str) -> Result<Target, TargetError> {
    let (is_unix, tls) = match scheme {
        "nbd" | "nbd+tcp" => (false, false),
        "nbds" | "nbds+tcp" => (false, true),
        "nbd+unix" => (true, false),
        "nbds+unix" => (true, true),
        _ => return Err(TargetError::Kind(whole.into())),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let decode = |text: &str| decode(text).ok_or_else(|| TargetError::Percent(whole.into()));
    let mut socket = None;
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("socket", path)) if is_unix && !path.is_empty() => socket = Some(decode(path)?),
            _ => return Err(TargetError::Query { part: part.into(), whole: whole.into() }),
        }
    }
    let address = match (is_unix, socket) {
        (true, Some(socket)) if authority.is_empty() => Address::Unix(socket.into()),
        (true, _) => return Err(TargetError::Socket(whole.into())),
        // Who is logged in there does not matter to the protocol.
        (false, _) => tcp(whole, authority.rsplit('@').next().unwrap_or_default(), Some(DEFAULT_PORT))?,
    };
    Ok(Target { address, export: decode(path)?, tls })
}

/// `HOST:PORT`; the port may be missing where there is a default.
fn tcp(whole: &str, text: &str, default: Option<u16>) -> Result<Address, TargetError> {
    let error = || TargetError::Port(whole.into());
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(error)?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(error)?) })
        }
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if !text.starts_with('[') && host.contains(':') {
        return Err(error());
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?,
        None => default.ok_or_else(error)?,
    };
    // A URI need not name this host.
    let host = if host.is_empty() && default.is_some() { "localhost" } else { host };
    if host.is_empty() { Err(error()) } else { Ok(Address::Tcp { host: host.into(), port }) }
}

/// What stands for bytes with `%`.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// What must not stand as it is in a path or a query.
fn encode(text: &str, f: &mut fmt::Formatter) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                write!(f, "{}", char::from(byte))?;
            }
            _ => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        match &self.address {
            Address::Unix(path) => {
                write!(f, "{scheme}+unix:///")?;
                encode(&self.export, f)?;
                write!(f, "?socket=")?;
                encode(&path.display().to_string(), f)
            }
            tcp => {
                write!(f, "{scheme}://{tcp}/")?;
                encode(&self.export, f)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn each_form_is_understood() {
        let unix = |path: &str| Address::Unix(path.into());
        for (text, address, export, tls) in [
            ("nbd:unix:/a/b", unix("/a/b"), "", false),
            ("nbd:unix:/a:b:exportname=c:d", unix("/a:b"), "c:d", false),
            ("nbd:localhost:10810", tcp("localhost", 10810), "", false),
            ("nbd:[::1]:7:exportname=x y", tcp("::1", 7), "x y", false),
            ("nbd://host", tcp("host", 10809), "", false),
            ("nbd://host:1/", tcp("host", 1), "", false),
            ("nbd:///x", tcp("localhost", 10809), "x", false),
            ("nbd+tcp://me@host:1/a%20b/c", tcp("host", 1), "a b/c", false),
            ("nbds://[::1]/x", tcp("::1", 10809), "x", true),
            ("nbd+unix:///name?socket=/a%3Fb", unix("/a?b"), "name", false),
            ("nbd+unix://?socket=s", unix("s"), "", false),
            ("nbds+unix:////x?socket=s", unix("s"), "/x", true),
        ] {
            let target: Target = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(target, Target { address, export: export.into(), tls }, "{text}");
            assert_eq!(target.to_string().parse(), Ok(target.clone()), "{target}");
            assert!(Target::is_meant(text));
        }
    }

    #[test]
    fn what_is_no_export_is_refused() {
        let of = |text: &str| text.parse::<Target>().unwrap_err();
        for text in ["", "nbd", "disk.img", "http://host/", "nbd+vsock://1/"] {
            assert_eq!(of(text), TargetError::Kind(text.into()), "{text}");
        }
        for text in ["nbd:host", "nbd::1", "nbd:host:0", "nbd:host:65536", "nbd:::1:7", "nbd://[::1/", "nbd://[::1]7/"]
        {
            assert_eq!(of(text), TargetError::Port(text.into()), "{text}");
        }
        for text in ["nbd:unix:", "nbd+unix:///x", "nbd+unix://host/x?socket=s"] {
            assert_eq!(of(text), TargetError::Socket(text.into()), "{text}");
        }
        for text in ["nbd://host/x?socket=s", "nbd+unix:///x?socket=", "nbd+unix:///x?socket=s&a=b"] {
            assert!(matches!(of(text), TargetError::Query { .. }), "{text}");
        }
        for text in ["nbd://host/%", "nbd://host/%1", "nbd://host/%zz", "nbd://host/%ff"] {
            assert_eq!(of(text), TargetError::Percent(text.into()), "{text}");
        }
    }
}
