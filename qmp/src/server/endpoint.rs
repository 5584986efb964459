//! Where clients are met, as users write it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which side of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We connect to a socket that somebody else listens on.
    Client,
    /// We listen.
    Server {
        /// The machine does not start before the first client has connected.
        wait: bool,
    },
}

/// Where clients of a monitor are met: what `-qmp` and `-monitor` take.
///
/// ```text
/// unix:PATH[,server[=on|off]][,wait=on|off][,nowait]
/// tcp:[HOST]:PORT[,server[=on|off]][,wait=on|off][,nowait]
/// stdio
/// none
/// ```
/// A comma in a path is written twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Nowhere.
    None,
    /// The program's standard input and output.
    Stdio,
    /// A socket in the file system.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Our side.
        role: Role,
    },
    /// A TCP port.
    Tcp {
        /// Name or address of the host; empty: any address for a server, this host for a client.
        host: String,
        /// Its number; 0: any that is free.
        port: u16,
        /// Our side.
        role: Role,
    },
}

/// A description of an endpoint that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It begins with none of the kinds.
    #[error("'{0}' is no place for a monitor; valid are unix:PATH, tcp:HOST:PORT, stdio and none")]
    Kind(String),
    /// No path after `unix:`.
    #[error("'{0}' names no path; valid is unix:PATH")]
    Path(String),
    /// No port after `tcp:`.
    #[error("'{0}' names no port between 0 and 65535; valid is tcp:HOST:PORT, with an IPv6 address in brackets")]
    Port(String),
    /// An option that sockets do not have.
    #[error("'{option}' in '{whole}' is not known; valid are server[=on|off], wait=on|off and nowait")]
    Option {
        /// The option.
        option: String,
        /// The description.
        whole: String,
    },
    /// `wait` for a socket that we do not listen on.
    #[error("'{0}' waits for clients but does not listen; add server=on or leave wait out")]
    WaitWithoutServer(String),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(whole: &str) -> Result<Endpoint, EndpointError> {
        let mut parts = split_at_commas(whole).into_iter();
        let place = parts.next().unwrap_or_default();
        let options: Vec<String> = parts.collect();
        if let Some(path) = place.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(EndpointError::Path(whole.into()));
            }
            return Ok(Endpoint::Unix { path: path.into(), role: role(&options, whole)? });
        }
        if let Some(address) = place.strip_prefix("tcp:") {
            let error = || EndpointError::Port(whole.into());
            let (host, port) = address.rsplit_once(':').ok_or_else(error)?;
            let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let host = match bracketed {
                Some(host) => host,
                None if host.contains(':') => return Err(error()),
                None => host,
            };
            let port = port.parse().map_err(|_| error())?;
            return Ok(Endpoint::Tcp { host: host.into(), port, role: role(&options, whole)? });
        }
        match (place.as_str(), options.is_empty()) {
            ("stdio", true) => Ok(Endpoint::Stdio),
            ("none" | "null", true) => Ok(Endpoint::None),
            _ => Err(EndpointError::Kind(whole.into())),
        }
    }
}

/// The parts between single commas; double ones stand for commas in a part. QEMU's options are written so.
pub fn split_at_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    parts
}

fn role(options: &[String], whole: &str) -> Result<Role, EndpointError> {
    let mut server = false;
    let mut wait = None;
    for option in options {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, switch(value)),
            None => (option.as_str(), Some(true)),
        };
        match (name, value) {
            ("server", Some(value)) => server = value,
            ("wait", Some(value)) => wait = Some(value),
            ("nowait", Some(value)) => wait = Some(!value),
            _ => return Err(EndpointError::Option { option: option.clone(), whole: whole.into() }),
        }
    }
    match (server, wait) {
        (true, wait) => Ok(Role::Server { wait: wait.unwrap_or(true) }),
        (false, None | Some(false)) => Ok(Role::Client),
        (false, Some(true)) => Err(EndpointError::WaitWithoutServer(whole.into())),
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self {
            Endpoint::None => return formatter.write_str("none"),
            Endpoint::Stdio => return formatter.write_str("stdio"),
            Endpoint::Unix { path, role } => {
                write!(formatter, "unix:{}", path.display())?;
                role
            }
            Endpoint::Tcp { host, port, role } if host.contains(':') => {
                write!(formatter, "tcp:[{host}]:{port}")?;
                role
            }
            Endpoint::Tcp { host, port, role } => {
                write!(formatter, "tcp:{host}:{port}")?;
                role
            }
        };
        match role {
            Role::Client => Ok(()),
            Role::Server { wait: true } => formatter.write_str(",server=on,wait=on"),
            Role::Server { wait: false } => formatter.write_str(",server=on,wait=off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Endpoint, String> {
        text.parse().map_err(|error: EndpointError| error.to_string())
    }

    #[test]
    fn qemu_s_spellings_are_understood() {
        let unix = |path: &str, role| Ok(Endpoint::Unix { path: path.into(), role });
        let tcp = |host: &str, port, role| Ok(Endpoint::Tcp { host: host.into(), port, role });
        let [now, wait] = [Role::Server { wait: false }, Role::Server { wait: true }];
        assert_eq!(parse("unix:/tmp/q,server,nowait"), unix("/tmp/q", now));
        assert_eq!(parse("unix:/tmp/q,server=on,wait=off"), unix("/tmp/q", now));
        assert_eq!(parse("unix:q,,1,server"), unix("q,1", wait));
        assert_eq!(parse("unix:q"), unix("q", Role::Client));
        assert_eq!(parse("tcp:localhost:4444,server=on,wait=on"), tcp("localhost", 4444, wait));
        assert_eq!(parse("tcp::0,server,nowait"), tcp("", 0, now));
        assert_eq!(parse("tcp:[::1]:1"), tcp("::1", 1, Role::Client));
        assert_eq!((parse("stdio"), parse("none")), (Ok(Endpoint::Stdio), Ok(Endpoint::None)));
        for text in ["unix:q,server=on,wait=off", "tcp:[::1]:1", "stdio"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn errors_name_what_was_given_and_what_is_valid() {
        for (text, part) in [
            ("pty", "'pty' is no place"),
            ("stdio,server", "'stdio,server' is no place"),
            ("unix:,server", "names no path"),
            ("tcp:1234", "names no port"),
            ("tcp:host:99999", "names no port"),
            ("tcp:::1:5", "in brackets"),
            ("unix:q,servr", "'servr' in 'unix:q,servr' is not known"),
            ("unix:q,server=maybe", "'server=maybe'"),
            ("unix:q,wait=on", "does not listen"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
