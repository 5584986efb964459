//! A server: exports of disks for clients elsewhere.

mod commands;
mod connection;
mod contexts;
mod export;
mod handshake;
mod read;
mod status;
mod users;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub use export::{DirtyBitmap, Export, ExportInfo, RemoveMode};

use self::export::Exports;
use self::users::{User, Users, ended};
use super::stream::{Listener, Stream};
use super::tls::ServerTls;
use super::{Address, runtime};

/// How long accepting rests after a failure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections at once, unless the user says otherwise.
const DEFAULT_CONNECTIONS: u32 = 100;

/// How long a handshake may take, unless the user says otherwise.
const DEFAULT_HANDSHAKE: Duration = Duration::from_secs(10);

/// How a server treats its clients.
#[derive(Clone)]
pub struct ServerOptions {
    /// Connections at once; more wait to be accepted. 0: as many as there come.
    pub max_connections: u32,
    /// How long a client may take until it uses an export; zero: as long as it likes.
    pub handshake_limit: Duration,
    /// Clients must use TLS, with these credentials.
    pub tls: Option<ServerTls>,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions { max_connections: DEFAULT_CONNECTIONS, handshake_limit: DEFAULT_HANDSHAKE, tls: None }
    }
}

/// Why a server does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It cannot listen.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// Where it should.
        address: Address,
        /// What the host says.
        why: String,
    },
    /// There is an export with the name.
    #[error("there is an export named '{name}' already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// There is no export with the name.
    #[error("there is no export named '{name}'")]
    NoExport {
        /// The name.
        name: String,
    },
    /// The server has been stopped.
    #[error("the server has been stopped, and offers no disks any more")]
    Stopped,
    /// Clients use the export.
    #[error("export '{name}' is in use by {clients} clients; mode 'hard' disconnects them")]
    InUse {
        /// The export.
        name: String,
        /// How many connections.
        clients: usize,
    },
    /// An export for writing of a disk that cannot be written.
    #[error("export '{name}' cannot be writable: its disk is read-only")]
    ReadOnly {
        /// The export.
        name: String,
    },
    /// A text that the protocol has no room for.
    #[error("an export's {what} of {length} bytes is too long; it may have 4096, a bitmap's name 2048")]
    TextLength {
        /// Which text.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
    },
}

struct Shared {
    options: ServerOptions,
    exports: Exports,
    /// True: no more clients, and those that there are must end.
    stopping: watch::Sender<bool>,
    /// The tasks.
    tasks: Arc<Users>,
}

/// Serves disks to clients at one address. It runs on threads of its own; its futures need no particular executor.
///
/// Where it is dropped it ends its connections, and does not wait for them as [`Server::stop`] does.
pub struct Server {
    shared: Arc<Shared>,
    address: Address,
}

impl Server {
    /// A server without exports; clients can connect once it is there.
    pub async fn start(address: &Address, options: ServerOptions) -> Result<Server, ServerError> {
        let failed =
            |error: io::Error| ServerError::Listen { address: address.clone(), why: crate::host_words(&error) };
        let wanted = address.clone();
        let bound = runtime::run(async move { Listener::bind(&wanted).await }).await;
        let (listener, address) = bound.and_then(|bound| bound).map_err(failed)?;
        let (stopping, exports, tasks) = (watch::channel(false).0, Exports::default(), Arc::<Users>::default());
        let listening = tasks.enter();
        let shared = Arc::new(Shared { options, exports, stopping, tasks });
        runtime::handle().map_err(failed)?.spawn(listen(listening, shared.clone(), listener));
        Ok(Server { shared, address })
    }

    /// Where it listens, with the port that was free.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Offers a disk.
    pub fn add(&self, export: Export) -> Result<(), ServerError> {
        self.shared.exports.add(export)
    }

    /// Takes an export away; returns once no client uses its disk any more.
    pub async fn remove(&self, name: &str, mode: RemoveMode) -> Result<(), ServerError> {
        self.shared.exports.remove(name, mode).await
    }

    /// The exports, by name.
    pub fn exports(&self) -> Vec<ExportInfo> {
        self.shared.exports.list()
    }

    /// Ends all connections, and takes no more. Returns once nothing uses a disk any more; requests to disks that are under way are
    /// not given up before.
    pub async fn stop(&self) {
        self.shared.stopping.send_replace(true);
        self.shared.exports.close();
        self.shared.tasks.all_gone().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.send_replace(true);
    }
}

/// Accepts clients until the server stops.
///
/// The last argument goes first: the socket is gone when nobody counts as using it.
async fn listen(_task: User, shared: Arc<Shared>, listener: Listener) {
    let limit = shared.options.max_connections;
    let places = Arc::new(Semaphore::new(if limit == 0 { Semaphore::MAX_PERMITS } else { limit as usize }));
    let mut stopping = shared.stopping.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = ended(&mut stopping) => return,
        };
        match accepted {
            Ok((stream, place)) => {
                let (shared, task) = (shared.clone(), shared.tasks.enter());
                tokio::spawn(async move {
                    serve(&shared, stream).await;
                    drop((task, place));
                });
            }
            Err(error) => {
                tracing::warn!("an NBD client could not be accepted: {error}");
                // Such as no more file descriptors: it passes.
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = ended(&mut stopping) => return,
                }
            }
        }
    }
}

/// Accepts the next client once there is a place for it.
async fn accept(listener: &Listener, places: &Arc<Semaphore>) -> io::Result<(Stream, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?, place))
}

/// Serves one client.
async fn serve(shared: &Shared, stream: Stream) {
    let mut stopping = shared.stopping.subscribe();
    let limit = shared.options.handshake_limit;
    let agreed = tokio::select! {
        agreed = handshake::negotiate(stream, &shared.exports, shared.options.tls.as_ref()) => agreed,
        () = tokio::time::sleep(limit), if !limit.is_zero() => {
            tracing::debug!("an NBD client has not chosen an export within {limit:?}");
            return;
        }
        () = ended(&mut stopping) => return,
    };
    match agreed {
        Ok(Some(session)) => connection::serve(session, stopping).await,
        Ok(None) => {}
        Err(error) => tracing::debug!("an NBD client left in the handshake: {error}"),
    }
}
