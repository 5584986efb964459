//! The servers that clients connect to.

mod endpoint;
mod stdio;

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use hw::vm::Vm;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

pub use endpoint::{Endpoint, EndpointError, Role, split_at_commas};

use crate::hmp;
pub use crate::json::Format;
use crate::session::{self, Hub, Output};

/// How many clients one listening socket serves at once; more wait to be accepted.
const MAXIMUM_CLIENTS: usize = 256;

/// How long [`Server::close`] waits for answers to reach their clients.
const FAREWELL: Duration = Duration::from_secs(2);

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 128;

/// How long accepting rests after a failure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often waiting for a client looks whether the machine has ended.
const ENDED_INTERVAL: Duration = Duration::from_millis(100);

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// QMP.
    Qmp(Format),
    /// The human monitor.
    Human {
        /// What is typed is sent back: for terminals that do not show it themselves.
        echo: bool,
    },
}

/// Why a client cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {endpoint}")]
pub struct ServerError {
    /// What was tried.
    action: &'static str,
    /// The endpoint as the user wrote it.
    endpoint: Endpoint,
    /// What the host says.
    source: io::Error,
}

struct Shared {
    vm: Arc<Vm>,
    hub: Hub,
    runtime: Handle,
    closing: watch::Sender<bool>,
    /// Every session holds a sender; `close` waits for the last to go.
    sessions: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
    sockets: Mutex<Vec<PathBuf>>,
}

/// Serves the clients of one machine: any number of them, on any number of sockets.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// A server for `vm` whose sessions run on `runtime`, which must have a multi-threaded scheduler with time and
    /// I/O enabled.
    pub fn new(vm: Arc<Vm>, runtime: Handle) -> Server {
        let hub = Hub::new(&vm);
        let (closing, sessions) = (watch::channel(false).0, Mutex::new(Some(mpsc::channel(1))));
        Server { shared: Arc::new(Shared { vm, hub, runtime, closing, sessions, sockets: Mutex::default() }) }
    }

    /// Serves clients at `endpoint`. Returns once a client can connect; with `wait=on`, once one has; in the role of a
    /// client, once it is connected. Must not be called on a thread of the runtime.
    ///
    /// A socket in the file system belongs to its user alone (mode 0600) and is removed by [`Server::close`]; one that
    /// was left behind at the path by another process is replaced.
    pub fn serve(&self, endpoint: &Endpoint, protocol: Protocol) -> Result<(), ServerError> {
        let failed = |action| move |source| ServerError { action, endpoint: endpoint.clone(), source };
        let runtime = &self.shared.runtime;
        match endpoint {
            Endpoint::None => {}
            Endpoint::Stdio => {
                let (reader, writer) = stdio::open(runtime).map_err(failed("start threads for"))?;
                self.serve_stream(reader, writer, protocol);
            }
            Endpoint::Unix { path, role: Role::Client } => {
                let stream = runtime.block_on(UnixStream::connect(path)).map_err(failed("connect to"))?;
                self.serve_connection(Connection::Unix(stream), protocol, None);
            }
            Endpoint::Unix { path, role: Role::Server { wait } } => {
                let listener = {
                    let _runtime = runtime.enter();
                    bind_unix(path).and_then(UnixListener::from_std).map_err(failed("listen on"))?
                };
                // The process may leave its folder before it ends.
                let whole = std::path::absolute(path).map_err(failed("listen on"))?;
                self.shared.sockets.lock().push(whole);
                self.listen(Listener::Unix(listener), *wait, endpoint, protocol);
            }
            Endpoint::Tcp { host, port, role: Role::Client } => {
                let host = if host.is_empty() { "localhost" } else { host };
                let stream = runtime.block_on(TcpStream::connect((host, *port))).map_err(failed("connect to"))?;
                self.serve_connection(Connection::Tcp(stream), protocol, None);
            }
            Endpoint::Tcp { host, port, role: Role::Server { wait } } => {
                let host = if host.is_empty() { "0.0.0.0" } else { host };
                let listener = runtime.block_on(TcpListener::bind((host, *port))).map_err(failed("listen on"))?;
                self.listen(Listener::Tcp(listener), *wait, endpoint, protocol);
            }
        }
        Ok(())
    }

    /// The runtime that the sessions run on.
    pub fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    /// Serves one client on a connection that exists already. Returns at once.
    pub fn serve_stream(
        &self,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        protocol: Protocol,
    ) {
        self.start(reader, writer, protocol, None);
    }

    /// Takes no more requests, finishes and delivers the answers to those that came, ends all sessions, and removes the
    /// sockets. Gives up after two seconds. Must not be called on a thread of the runtime.
    pub fn close(&self) {
        self.shared.closing.send_replace(true);
        let sessions = self.shared.sessions.lock().take();
        if let Some((sender, mut receiver)) = sessions {
            drop(sender);
            let all_gone = async { tokio::time::timeout(FAREWELL, receiver.recv()).await };
            if self.shared.runtime.block_on(all_gone).is_err() {
                tracing::warn!("a monitor client did not take its answers");
            }
        }
        for path in self.shared.sockets.lock().drain(..) {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Accepts clients until the server closes.
    fn listen(&self, listener: Listener, wait: bool, endpoint: &Endpoint, protocol: Protocol) {
        let (first, arrived) = std::sync::mpsc::channel();
        let server = self.clone();
        let mut closing = self.shared.closing.subscribe();
        self.shared.runtime.spawn(async move {
            let clients = Arc::new(Semaphore::new(MAXIMUM_CLIENTS));
            loop {
                let accepted = tokio::select! {
                    accepted = accept(&listener, &clients) => accepted,
                    () = session::closed(&mut closing) => return,
                };
                match accepted {
                    Ok((connection, place)) => {
                        server.serve_connection(connection, protocol, Some(place));
                        // Nobody waits for any but the first.
                        let _ = first.send(());
                    }
                    Err(error) => {
                        tracing::warn!("a monitor client could not be accepted: {error}");
                        // Such as no more file descriptors: it passes.
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        if wait {
            tracing::info!("waiting for a client on {endpoint}");
            // Whatever ends the machine ends the waiting, too.
            while arrived.recv_timeout(ENDED_INTERVAL) == Err(RecvTimeoutError::Timeout)
                && self.shared.vm.wait_for_exit_at_most(Duration::ZERO).is_none()
            {}
        }
    }

    /// Serves a client that has `place` among those of its listener, if it came by one.
    fn serve_connection(&self, connection: Connection, protocol: Protocol, place: Option<OwnedSemaphorePermit>) {
        match connection {
            Connection::Unix(stream) => {
                let (reader, writer) = stream.into_split();
                self.start(reader, writer, protocol, place);
            }
            Connection::Tcp(stream) => {
                // Answers are short and awaited; a socket that cannot do it works, too.
                let _ = stream.set_nodelay(true);
                let (reader, writer) = stream.into_split();
                self.start(reader, writer, protocol, place);
            }
        }
    }

    /// Starts the session of a client.
    fn start(
        &self,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        protocol: Protocol,
        place: Option<OwnedSemaphorePermit>,
    ) {
        // Taken here, so that `close` waits for a session that has not begun.
        let Some(alive) = self.shared.sessions.lock().as_ref().map(|(alive, _)| alive.clone()) else { return };
        let server = self.clone();
        self.shared.runtime.spawn(async move {
            server.session(reader, writer, protocol).await;
            drop((alive, place));
        });
    }

    async fn session(
        &self,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        protocol: Protocol,
    ) {
        let Shared { vm, hub, closing, .. } = &*self.shared;
        let output = Arc::new(Output::new());
        let writing = tokio::spawn({
            let output = output.clone();
            async move {
                if output.write_to(writer).await.is_err() {
                    output.give_up();
                }
            }
        });
        match protocol {
            Protocol::Qmp(format) => {
                session::serve(vm.clone(), hub, reader, &output, format, closing.subscribe()).await;
            }
            Protocol::Human { echo } => hmp::serve(vm.clone(), reader, &output, echo, closing.subscribe()).await,
        }
        output.finish();
        // It has nothing to tell; a panic in it has been reported.
        let _ = writing.await;
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Accepts the next client once there is a place for it.
async fn accept(listener: &Listener, clients: &Arc<Semaphore>) -> io::Result<(Connection, OwnedSemaphorePermit)> {
    let place = clients.clone().acquire_owned().await.map_err(io::Error::other)?;
    let connection = match listener {
        Listener::Unix(listener) => Connection::Unix(listener.accept().await?.0),
        Listener::Tcp(listener) => Connection::Tcp(listener.accept().await?.0),
    };
    Ok((connection, place))
}

/// Listens on a socket at `path` that only its user can open from the first moment on.
fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Between these two nobody can connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
