//! Disks that clients elsewhere use, by the machine's one NBD server.

use std::sync::Arc;

use super::Graph;
use crate::nbd::{Address, Export, RemoveMode, Server, ServerOptions};
use crate::{Backend, DirtyBitmap, Error, ErrorPolicy, Node, Permission, Permissions, nbd};

/// What is offered of a node.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The export's identifier in the machine.
    pub id: String,
    /// What clients ask for.
    pub name: String,
    /// What the list of exports says of it.
    pub description: Option<String>,
    /// The node.
    pub node: Arc<Node>,
    /// Clients may change it.
    pub writable: bool,
    /// Clients may ask how many images up the data is.
    pub allocation_depth: bool,
    /// Clients may ask what is marked in these.
    pub bitmaps: Vec<Arc<DirtyBitmap>>,
}

/// An export in use.
#[derive(Clone, Debug)]
pub struct ExportState {
    /// Its identifier.
    pub id: String,
    /// What clients ask for.
    pub name: String,
    /// The name of its node.
    pub node: String,
}

/// The server and what it offers.
#[derive(Default)]
pub(super) struct Exports {
    server: Option<Server>,
    all: Vec<(ExportState, Arc<Backend>)>,
}

impl nbd::DirtyBitmap for DirtyBitmap {
    fn name(&self) -> &str {
        self.name().unwrap_or_default()
    }

    fn status(&self, offset: u64, length: u64) -> (bool, u64) {
        match self.next_marked(offset, length) {
            Some(marked) if marked.start <= offset => (true, (marked.end - offset).clamp(1, length)),
            Some(marked) => (false, (marked.start - offset).min(length)),
            None => (false, length),
        }
    }
}

fn not_running() -> Error {
    Error::Option("NBD server not running".into())
}

fn failed(error: &nbd::ServerError) -> Error {
    Error::Option(error.to_string())
}

impl Graph {
    /// Starts the server. There is one at most.
    pub async fn start_server(&self, address: &Address, options: ServerOptions) -> Result<(), Error> {
        let mut exports = self.exports.lock().await;
        if exports.server.is_some() {
            return Err(Error::Option("NBD server already running".into()));
        }
        exports.server = Some(Server::start(address, options).await.map_err(|error| failed(&error))?);
        Ok(())
    }

    /// Offers a node.
    pub async fn add_export(&self, options: ExportOptions) -> Result<(), Error> {
        let mut exports = self.exports.lock().await;
        let ExportOptions { id, name, description, node, writable, allocation_depth, bitmaps } = options;
        if exports.all.iter().any(|(other, _)| other.id == id) {
            return Err(Error::Option(format!("Block export id '{id}' is already in use")));
        }
        let state = ExportState { id, name: name.clone(), node: node.name().to_owned() };
        let backend = Backend::named("", ErrorPolicy::default(), Some(node));
        let writes = if writable { Permission::WRITE } else { Permission::empty() };
        backend.set_user(|user| {
            user.description = format!("export '{}'", state.id);
            user.permissions = Permissions { needed: Permission::CONSISTENT_READ | writes, shared: Permission::all() };
        });
        let server = exports.server.as_ref().ok_or_else(not_running)?;
        self.add_backend(backend.clone())?;
        let bitmaps = bitmaps.into_iter().map(|bitmap| bitmap as Arc<dyn nbd::DirtyBitmap>).collect();
        let export = Export { description, writable, allocation_depth, bitmaps, ..Export::new(name, backend.clone()) };
        if let Err(error) = server.add(export) {
            self.remove_backend(&backend);
            return Err(failed(&error));
        }
        exports.all.push((state, backend));
        Ok(())
    }

    /// Takes an export away, by its identifier; returns once no client uses its disk any more.
    pub async fn remove_export(&self, id: &str, mode: RemoveMode) -> Result<(), Error> {
        let mut exports = self.exports.lock().await;
        let missing = || Error::Option(format!("Export '{id}' is not found"));
        let at = exports.all.iter().position(|(state, _)| state.id == id).ok_or_else(missing)?;
        let server = exports.server.as_ref().ok_or_else(not_running)?;
        server.remove(&exports.all[at].0.name, mode).await.map_err(|error| failed(&error))?;
        let (_, backend) = exports.all.remove(at);
        self.remove_backend(&backend);
        Ok(())
    }

    /// What is offered.
    pub async fn exports(&self) -> Vec<ExportState> {
        self.exports.lock().await.all.iter().map(|(state, _)| state.clone()).collect()
    }

    /// Ends the server; returns once no client uses a disk any more.
    pub async fn stop_server(&self) -> Result<(), Error> {
        let mut exports = self.exports.lock().await;
        let server = exports.server.take().ok_or_else(not_running)?;
        server.stop().await;
        for (_, backend) in exports.all.drain(..) {
            self.remove_backend(&backend);
        }
        Ok(())
    }
}
