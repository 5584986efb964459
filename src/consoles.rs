//! Serial ports, monitors and the character devices behind them: `-chardev`, `-serial`, `-monitor`, `-qmp`, `-mon`.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use host::chardev::{
    CharBackend, CharEvent, CharFrontend, FileBackend, Mux, NullBackend, SocketAddress, SocketBackend, SocketRole,
    StdioBackend,
};
use hw::vm::{Cause, Vm};
use qmp::server::{Endpoint, Format, Protocol, Role, Server};

use crate::command_line::{Group, Invalid, Options};
use crate::terminal::RawTerminal;

/// A character device as the user describes it, before it is opened.
#[derive(Clone, Debug)]
enum Description {
    None,
    Null,
    Stdio {
        mux: bool,
    },
    File(PathBuf),
    Socket(SocketAddress, SocketRole),
    /// One of `-chardev`.
    Named(String),
}

/// A monitor to be served once the machine is there.
enum Monitor {
    At(Endpoint, Protocol),
    On(Arc<dyn CharBackend>),
}

/// All host ends of character devices of one machine.
pub(crate) struct Consoles {
    named: HashMap<String, Description>,
    opened: HashMap<String, Arc<dyn CharBackend>>,
    /// The mux on standard input and output, once something uses it.
    terminal_mux: Option<Arc<Mux>>,
    stdio_used_by: Option<&'static str>,
    /// There will be no standard input and output.
    daemonize: bool,
    monitors: Vec<Monitor>,
    /// Filled when the machine exists: for Ctrl-A x.
    vm: Arc<OnceLock<std::sync::Weak<Vm>>>,
    /// How the terminal is to be used while the machine lives: with or without signals from keys.
    raw_with_signals: Option<bool>,
    raw: Option<RawTerminal>,
}

impl Consoles {
    /// Reads `-chardev`; opens nothing yet.
    pub(crate) fn new(options: &Options) -> Result<Consoles, Invalid> {
        let mut named = HashMap::new();
        for text in &options.chardevs {
            let (id, description) = chardev(text)?;
            if named.insert(id.clone(), description).is_some() {
                return Err(Invalid::new(format!("-chardev {text}: there is a chardev {id} already")));
            }
        }
        Ok(Consoles {
            named,
            opened: HashMap::new(),
            terminal_mux: None,
            stdio_used_by: None,
            daemonize: options.daemonize,
            monitors: Vec::new(),
            vm: Arc::default(),
            raw_with_signals: None,
            raw: None,
        })
    }

    /// Opens what `-serial` asks for; with `-nographic` and without both it and `-nodefaults`, the terminal, shared with
    /// the monitor.
    pub(crate) fn serial_ports(&mut self, options: &Options) -> Result<Vec<Arc<dyn CharBackend>>, Invalid> {
        let mut wanted = options.serials.clone();
        if wanted.is_empty() && options.nographic && !options.nodefaults {
            if options.daemonize {
                return Err(Invalid::new("-nographic: with -daemonize there is no terminal; add -serial none"));
            }
            wanted.push("mon:stdio".into());
        }
        let mut ports = Vec::new();
        for text in &wanted {
            let (text, with_monitor) = match text.strip_prefix("mon:") {
                Some(rest) => (rest, true),
                None => (text.as_str(), false),
            };
            let description = match device("serial", text)? {
                Description::Stdio { mux } => Description::Stdio { mux: mux || with_monitor },
                Description::None => continue,
                other if with_monitor => {
                    return Err(Invalid::new(format!(
                        "-serial mon:{text}: {other:?} cannot be shared; valid is mon:stdio"
                    )));
                }
                other => other,
            };
            ports.push(self.open(description, "serial")?);
            // As QEMU does: the monitor shares the terminal unless the user put it elsewhere.
            if with_monitor && options.monitors.is_empty() {
                let port = self.open(Description::Stdio { mux: true }, "monitor")?;
                self.monitors.push(Monitor::On(port));
            }
        }
        Ok(ports)
    }

    /// Opens what `-debugcon` asks for.
    pub(crate) fn debug_console(&mut self, options: &Options) -> Result<Option<Arc<dyn CharBackend>>, Invalid> {
        let Some(text) = &options.debugcon else { return Ok(None) };
        match device("debugcon", text)? {
            Description::None => Ok(None),
            description => self.open(description, "debugcon").map(Some),
        }
    }

    /// Opens what `-qtest` asks for.
    pub(crate) fn qtest(&mut self, options: &Options) -> Result<Option<Arc<dyn CharBackend>>, Invalid> {
        let Some(text) = &options.qtest else { return Ok(None) };
        match device("qtest", text)? {
            Description::None => Ok(None),
            description => self.open(description, "qtest").map(Some),
        }
    }

    /// The backend of `-chardev id=...`, for a device.
    pub(crate) fn named(&mut self, id: &str) -> Result<Arc<dyn CharBackend>, Invalid> {
        self.open(Description::Named(id.into()), "chardev")
    }

    /// Reads what monitors there shall be.
    pub(crate) fn monitors(&mut self, options: &Options) -> Result<(), Invalid> {
        for text in &options.monitors {
            self.add_monitor("monitor", text, Protocol::Human { echo: false })?;
        }
        for text in &options.qmp {
            self.add_monitor("qmp", text, Protocol::Qmp(Format::Line))?;
        }
        for text in &options.qmp_pretty {
            self.add_monitor("qmp-pretty", text, Protocol::Qmp(Format::Pretty))?;
        }
        for text in &options.mon {
            let mut group = Group::parse("mon", text)?;
            let id = group.take_first("chardev").ok_or_else(|| group.invalid("chardev=ID is missing"))?;
            group.take("id");
            let pretty = group.take_switch("pretty")?.unwrap_or(false);
            let protocol = match group.take("mode").as_deref() {
                Some("control") => Protocol::Qmp(if pretty { Format::Pretty } else { Format::Line }),
                None | Some("readline") => Protocol::Human { echo: false },
                Some(other) => {
                    return Err(group.invalid(format!("mode={other}: valid are control and readline")));
                }
            };
            let description = self.named.get(&id).cloned();
            let description = description.ok_or_else(|| group.invalid(format!("there is no chardev {id}")))?;
            group.finish("chardev, mode, pretty and id")?;
            self.add_described_monitor("mon", description, protocol)?;
        }
        Ok(())
    }

    fn add_monitor(&mut self, option: &'static str, text: &str, protocol: Protocol) -> Result<(), Invalid> {
        let text = text.strip_prefix("mon:").unwrap_or(text);
        self.add_described_monitor(option, device(option, text)?, protocol)
    }

    fn add_described_monitor(
        &mut self,
        option: &'static str,
        description: Description,
        protocol: Protocol,
    ) -> Result<(), Invalid> {
        let endpoint = match description {
            Description::None | Description::Null => return Ok(()),
            Description::Stdio { mux: true } => {
                let Protocol::Human { .. } = protocol else {
                    return Err(Invalid::new(format!("-{option}: QMP cannot share the terminal with a serial port")));
                };
                let port = self.open(Description::Stdio { mux: true }, option)?;
                self.monitors.push(Monitor::On(port));
                return Ok(());
            }
            Description::Stdio { mux: false } => {
                self.take_stdio(option)?;
                Endpoint::Stdio
            }
            Description::Socket(SocketAddress::Unix(path), role) => Endpoint::Unix { path, role: monitor_role(role) },
            Description::Socket(SocketAddress::Tcp(host, port), role) => {
                Endpoint::Tcp { host, port, role: monitor_role(role) }
            }
            Description::File(path) => {
                return Err(Invalid::new(format!(
                    "-{option}: a monitor cannot be on the file {}; valid are stdio, unix:, tcp: and none",
                    path.display()
                )));
            }
            Description::Named(id) => {
                let named = self.named.get(&id).cloned();
                let named = named.ok_or_else(|| Invalid::new(format!("-{option}: there is no chardev {id}")))?;
                return self.add_described_monitor(option, named, protocol);
            }
        };
        self.monitors.push(Monitor::At(endpoint, protocol));
        Ok(())
    }

    /// Serves the monitors of the machine, and makes the terminal raw if it is used. Signals that end the process must be
    /// handled before, so that they do not leave it so.
    pub(crate) fn serve(&mut self, vm: &Arc<Vm>, server: &Server) -> Result<(), Invalid> {
        // Set once, here.
        let _ = self.vm.set(Arc::downgrade(vm));
        self.raw = self.raw_with_signals.map(RawTerminal::enter);
        for monitor in self.monitors.drain(..) {
            match monitor {
                Monitor::At(endpoint, protocol) => {
                    server.serve(&endpoint, protocol).map_err(|error| Invalid::from_error(&error))?;
                }
                Monitor::On(backend) => {
                    let (server, session) = (server.clone(), OnceLock::new());
                    let monitor = TerminalMonitor { server, backend: backend.clone(), session };
                    backend.connect(Arc::new(monitor));
                }
            }
        }
        Ok(())
    }

    fn take_stdio(&mut self, user: &'static str) -> Result<(), Invalid> {
        if self.daemonize {
            return Err(Invalid::new(format!("-{user} stdio: with -daemonize there is no standard input and output")));
        }
        match self.stdio_used_by.replace(user) {
            None => Ok(()),
            Some(other) => Err(Invalid::new(format!(
                "-{user} stdio: standard input and output are used by -{other} already; share them with -serial mon:stdio"
            ))),
        }
    }

    fn open(&mut self, description: Description, user: &'static str) -> Result<Arc<dyn CharBackend>, Invalid> {
        let failed = |error: host::chardev::Error| Invalid::from_error(&error);
        Ok(match description {
            Description::None | Description::Null => Arc::new(NullBackend),
            Description::Stdio { mux: false } => {
                self.take_stdio(user)?;
                self.raw_with_signals = Some(true);
                Arc::new(StdioBackend::open().map_err(failed)?)
            }
            Description::Stdio { mux: true } => {
                let mux = match &self.terminal_mux {
                    Some(mux) => mux.clone(),
                    None => {
                        self.take_stdio(user)?;
                        self.raw_with_signals = Some(false);
                        let vm = self.vm.clone();
                        let quit = move || {
                            if let Some(vm) = vm.get().and_then(std::sync::Weak::upgrade) {
                                // A machine that has ended already needs no end.
                                let _ = vm.quit(Cause::HostUi);
                            }
                        };
                        let mux = Mux::new(Arc::new(StdioBackend::open().map_err(failed)?), quit);
                        self.terminal_mux.insert(mux).clone()
                    }
                };
                mux.port().map_err(failed)?
            }
            Description::File(path) => Arc::new(FileBackend::open(&path, false).map_err(failed)?),
            Description::Socket(address, role) => Arc::new(SocketBackend::open(&address, role).map_err(failed)?),
            Description::Named(id) => {
                if let Some(backend) = self.opened.get(&id) {
                    return Ok(backend.clone());
                }
                let description = self.named.get(&id).cloned();
                let description =
                    description.ok_or_else(|| Invalid::new(format!("-{user}: there is no chardev {id}")))?;
                let shared = matches!(description, Description::Stdio { mux: true });
                let backend = self.open(description, user)?;
                if !shared {
                    self.opened.insert(id, backend.clone());
                }
                backend
            }
        })
    }
}

fn monitor_role(role: SocketRole) -> Role {
    match role {
        SocketRole::Client => Role::Client,
        SocketRole::Server => Role::Server { wait: false },
        SocketRole::WaitingServer => Role::Server { wait: true },
    }
}

/// Reads a `-chardev`.
fn chardev(text: &str) -> Result<(String, Description), Invalid> {
    let mut group = Group::parse("chardev", text)?;
    let backend = group.take_first("backend");
    let id = group.take_required("id")?;
    let description = match backend.as_deref() {
        Some("null") => Description::Null,
        Some("stdio") => {
            group.take_switch("signal")?;
            Description::Stdio { mux: group.take_switch("mux")?.unwrap_or(false) }
        }
        Some("file") => Description::File(group.take_required("path")?.into()),
        Some("socket") => {
            let server = group.take_switch("server")?.unwrap_or(false);
            let wait = group.take_switch("wait")?.unwrap_or(true);
            let role = match (server, wait) {
                (false, _) => SocketRole::Client,
                (true, true) => SocketRole::WaitingServer,
                (true, false) => SocketRole::Server,
            };
            let address = match (group.take("path"), group.take("port")) {
                (Some(path), None) => SocketAddress::Unix(path.into()),
                (None, Some(port)) => {
                    let number = port.parse().map_err(|_| group.invalid(format!("port={port} is no TCP port")))?;
                    SocketAddress::Tcp(group.take("host").unwrap_or_default(), number)
                }
                _ => return Err(group.invalid("a socket has either path=... or host=... and port=...")),
            };
            Description::Socket(address, role)
        }
        _ => return Err(group.invalid("valid are stdio, null, file and socket")),
    };
    group.finish("id, path, host, port, server, wait, mux and signal, as the backend has them")?;
    Ok((id, description))
}

/// Reads the short form that `-serial`, `-monitor` and `-qmp` take.
fn device(option: &'static str, text: &str) -> Result<Description, Invalid> {
    let invalid = |what: &str| Invalid::new(format!("-{option} {text}: {what}"));
    if let Some(id) = text.strip_prefix("chardev:") {
        return Ok(Description::Named(id.into()));
    }
    if let Some(path) = text.strip_prefix("file:").filter(|path| !path.is_empty()) {
        return Ok(Description::File(Path::new(path).into()));
    }
    match text.parse::<Endpoint>().map_err(|error| invalid(&error.to_string()))? {
        Endpoint::None if text == "null" => Ok(Description::Null),
        Endpoint::None => Ok(Description::None),
        Endpoint::Stdio => Ok(Description::Stdio { mux: false }),
        Endpoint::Unix { path, role } => Ok(Description::Socket(SocketAddress::Unix(path), socket_role(role))),
        Endpoint::Tcp { host, port, role } => {
            Ok(Description::Socket(SocketAddress::Tcp(host, port), socket_role(role)))
        }
    }
}

fn socket_role(role: Role) -> SocketRole {
    match role {
        Role::Client => SocketRole::Client,
        Role::Server { wait: false } => SocketRole::Server,
        Role::Server { wait: true } => SocketRole::WaitingServer,
    }
}

/// The human monitor on a port of the terminal's mux. Its session begins when the user first switches to it, so that
/// its greeting does not get among the guest's output.
struct TerminalMonitor {
    server: Server,
    backend: Arc<dyn CharBackend>,
    session: OnceLock<Option<UnixStream>>,
}

impl CharFrontend for TerminalMonitor {
    fn receivable(&self) -> usize {
        1024
    }

    fn receive(&self, data: &[u8]) {
        if let Some(Some(session)) = self.session.get() {
            // A monitor that has ended hears nothing.
            let _ = (&*session).write_all(data);
        }
    }

    fn event(&self, event: CharEvent) {
        if event == CharEvent::FocusGained {
            self.session.get_or_init(|| {
                start_session(&self.server, &self.backend)
                    .inspect_err(|error| tracing::warn!("the monitor on the terminal cannot be started: {error}"))
                    .ok()
            });
        }
    }
}

/// Begins a monitor session whose output goes to `backend`; its input is to be written to the result.
fn start_session(server: &Server, backend: &Arc<dyn CharBackend>) -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let (reader, writer) = {
        let _runtime = server.runtime().enter();
        tokio::net::UnixStream::from_std(theirs)?.into_split()
    };
    let (output, mut answers) = (backend.clone(), ours.try_clone()?);
    std::thread::Builder::new().name("monitor output".into()).spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = answers.read(&mut buffer) {
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let taken = output.write(rest);
                rest = &rest[taken..];
                if taken == 0 {
                    output.flush(std::time::Duration::from_secs(1));
                }
            }
        }
    })?;
    server.serve_stream(reader, writer, Protocol::Human { echo: true });
    Ok(ours)
}
