//! The graph of a machine: its nodes by name, who uses them, and how it is changed while it is in use.

mod drivers;
mod exports;
mod location;
mod open;
mod options;
mod transaction;

use std::sync::Arc;

use futures_executor::block_on;
use parking_lot::Mutex;

use self::exports::Exports;
pub use self::exports::{ExportOptions, ExportState};
use self::open::set_read_only;
use self::open::{Inherited, Opening};
pub use self::options::{ChildOptions, NodeOptions};
pub use self::transaction::{Action, BitmapOf, Snapshot};
use crate::driver::{Preallocation, Role};
use crate::{Backend, Edge, Error, FailedRequest, IoStatus, Node, permissions};

/// All disks of a machine.
///
/// A node is in the graph as long as a user has it or a node above it, or as long as the one who added it wants it to be. Changes of the
/// graph come one after the other; the requests of whoever is concerned wait meanwhile.
#[derive(Default)]
pub struct Graph {
    // Lock order: alone.
    state: Mutex<State>,
    /// Held while the graph is changed.
    // Lock order: before the requests of backends.
    changing: tokio::sync::Mutex<()>,
    // Lock order: before all others; exports are added and removed under it.
    exports: tokio::sync::Mutex<Exports>,
}

/// Told of each request of a guest that failed.
type Listener = Arc<dyn Fn(FailedRequest) + Send + Sync>;

#[derive(Default)]
struct State {
    /// Nodes that were added by name, in the order of coming.
    added: Vec<Arc<Node>>,
    /// Users.
    backends: Vec<Arc<Backend>>,
    listener: Option<Listener>,
}

impl Graph {
    /// A graph without nodes.
    pub fn new() -> Arc<Graph> {
        Arc::default()
    }

    /// All users, in the order of coming.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        self.state.lock().backends.clone()
    }

    /// The user's disk with a name, or that of a guest's device with this identifier or path.
    pub fn backend(&self, name: &str) -> Option<Arc<Backend>> {
        let backends = self.backends();
        let named = backends.iter().find(|backend| !name.is_empty() && backend.name() == name);
        let of_device = || backends.iter().find(|backend| backend.user().device.as_deref() == Some(name));
        named.or_else(of_device).cloned()
    }

    /// All nodes, each after those above it.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        let (added, backends) = {
            let state = self.state.lock();
            (state.added.clone(), state.backends.clone())
        };
        permissions::from_above(added.into_iter().chain(backends.iter().filter_map(|backend| backend.node())))
    }

    /// The node with a name.
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes().into_iter().find(|node| node.name() == name)
    }

    /// The node with a name, or the sentence that there is none.
    pub fn existing_node(&self, name: &str) -> Result<Arc<Node>, Error> {
        self.node(name).ok_or_else(|| Error::Option(format!("Cannot find device='{name}' nor node-name='{name}'")))
    }

    /// The node that a user's name for a disk, a device, or a node's own name means.
    pub fn find(&self, name: &str) -> Result<Arc<Node>, Error> {
        match self.backend(name) {
            Some(backend) => backend.node().ok_or_else(|| Error::Option(format!("Device '{name}' has no medium"))),
            None => self.existing_node(name),
        }
    }

    /// Adds a user, whose name must be nobody's.
    pub fn add_backend(&self, backend: Arc<Backend>) -> Result<(), Error> {
        let name = backend.name();
        if !name.is_empty() {
            if self.backend(name).is_some() {
                return Err(Error::Option(format!("Device with id '{name}' already exists")));
            }
            if self.node(name).is_some() {
                return Err(Error::Option(format!("Device name '{name}' conflicts with an existing node name")));
            }
        }
        {
            let mut state = self.state.lock();
            if let Some(listener) = state.listener.clone() {
                backend.listen(Box::new(move |failed| listener(failed)));
            }
            state.backends.push(backend.clone());
        }
        let checked = self.check_permissions();
        if checked.is_err() {
            self.remove_backend(&backend);
        }
        checked
    }

    /// Who is told of requests of the guest that fail, of all users. It must not wait.
    pub fn listen(&self, listener: impl Fn(FailedRequest) + Send + Sync + 'static) {
        let listener: Listener = Arc::new(listener);
        let mut state = self.state.lock();
        for backend in &state.backends {
            let listener = listener.clone();
            backend.listen(Box::new(move |failed| listener(failed)));
        }
        state.listener = Some(listener);
    }

    /// The machine goes on: requests that failed are made again.
    pub fn forget_failures(&self) {
        for backend in self.backends() {
            backend.set_user(|user| user.io_status = IoStatus::Ok);
        }
    }

    /// Puts on stable storage what all users wrote, for threads that may wait.
    pub fn flush_blocking(&self) {
        for backend in self.backends() {
            if let Err(error) = backend.flush_blocking() {
                tracing::error!("disk {backend:?}: {error}");
            }
        }
    }

    /// Leaves all images as who opens them next expects them, for threads that may wait. Returns what went wrong, by node.
    pub fn close_blocking(&self) -> Vec<(String, Error)> {
        block_on(async {
            // There may be none.
            let _ = self.stop_server().await;
            let _change = self.changing.lock().await;
            let backends = self.backends();
            let _alone = quiesce(&backends).await;
            let mut failed = Vec::new();
            for node in self.nodes() {
                if let Err(error) = node.driver().close().await {
                    failed.push((node.name().to_owned(), error));
                }
            }
            failed
        })
    }

    /// Forgets a user.
    pub fn remove_backend(&self, backend: &Arc<Backend>) {
        self.state.lock().backends.retain(|other| !Arc::ptr_eq(other, backend));
    }

    /// What is known of a user changes, unless that does not go together with the other users.
    pub fn change_user(&self, backend: &Backend, change: impl FnOnce(&mut crate::User)) -> Result<(), Error> {
        let before = backend.user();
        backend.set_user(change);
        let checked = self.check_permissions();
        if checked.is_err() {
            backend.set_user(|user| *user = before);
        }
        checked
    }

    /// Checks that what all users do goes together.
    fn check_permissions(&self) -> Result<(), Error> {
        permissions::check(&self.backends())
    }

    /// Makes a node of options, with those below it. It is not added: who uses it keeps it.
    pub async fn open(&self, options: NodeOptions) -> Result<Arc<Node>, Error> {
        Opening::new(self).open(options, Inherited::default()).await
    }

    /// Makes a node of options and keeps it, until [`Graph::remove_node`].
    pub async fn add_node(&self, options: NodeOptions) -> Result<Arc<Node>, Error> {
        let _change = self.changing.lock().await;
        if !options.contains("node-name") {
            return Err(Error::Option("'node-name' must be specified for the root node".into()));
        }
        let node = self.open(options).await?;
        self.state.lock().added.push(node.clone());
        Ok(node)
    }

    /// Closes a node that was added, which nobody may use.
    pub async fn remove_node(&self, name: &str) -> Result<(), Error> {
        let _change = self.changing.lock().await;
        let node =
            self.node(name).ok_or_else(|| Error::Option(format!("Failed to find node with node-name='{name}'")))?;
        let is_added = self.state.lock().added.iter().any(|other| Arc::ptr_eq(other, &node));
        if !is_added {
            return Err(Error::InUse(format!("Node {name} is not owned by the monitor")));
        }
        if self.parents(&node).next().is_some() {
            return Err(Error::InUse(format!("Node {name} is in use")));
        }
        self.state.lock().added.retain(|other| !Arc::ptr_eq(other, &node));
        self.close_unused(&node).await
    }

    /// Closes a node that nobody has any more, and those below it that nobody else has.
    pub(crate) async fn close_unused(&self, node: &Arc<Node>) -> Result<(), Error> {
        let used = self.nodes();
        let is_used = |node: &Arc<Node>| used.iter().any(|other| Arc::ptr_eq(other, node));
        let mut waiting = vec![node.clone()];
        let mut result = Ok(());
        while let Some(node) = waiting.pop() {
            if is_used(&node) {
                continue;
            }
            result = result.and(node.driver().close().await);
            waiting.extend(node.driver().children().into_iter().map(|(_, child)| child));
        }
        result
    }

    /// Makes a node so long. What is new reads as zeros. Whose disk it is, is told.
    pub async fn resize(&self, node: &Arc<Node>, length: u64) -> Result<(), Error> {
        let _change = self.changing.lock().await;
        let users = self.users_of(std::slice::from_ref(node));
        {
            let _alone = quiesce(&users).await;
            node.truncate(length, Preallocation::Off).await?;
        }
        for user in users {
            user.tell_length();
        }
        Ok(())
    }

    /// The nodes and users directly above a node.
    fn parents(&self, node: &Arc<Node>) -> impl Iterator<Item = Parent> {
        let nodes = self.nodes();
        let mut parents = Vec::new();
        for backend in self.backends() {
            if backend.node().is_some_and(|below| Arc::ptr_eq(&below, node)) {
                parents.push(Parent::Backend(backend));
            }
        }
        for above in nodes {
            for (role, child) in above.driver().children() {
                if Arc::ptr_eq(&child, node) {
                    parents.push(Parent::Node(above.clone(), role));
                }
            }
        }
        parents.into_iter()
    }

    /// The users from whom one of these nodes can be reached.
    fn users_of(&self, nodes: &[Arc<Node>]) -> Vec<Arc<Backend>> {
        let is_concerned = |backend: &Arc<Backend>| {
            let below = permissions::from_above(backend.node());
            below.iter().any(|node| nodes.iter().any(|other| Arc::ptr_eq(other, node)))
        };
        self.backends().into_iter().filter(is_concerned).collect()
    }
}

/// No request of these users is under way from here on, and those that come wait until the guards are dropped.
async fn quiesce(users: &[Arc<Backend>]) -> Vec<tokio::sync::RwLockWriteGuard<'_, ()>> {
    let mut alone = Vec::new();
    for user in users {
        alone.push(user.quiesce().await);
    }
    alone
}

/// A node is another one, or stands somewhere below it.
fn is_below(above: &Arc<Node>, node: &Arc<Node>) -> bool {
    permissions::from_above([above.clone()]).iter().any(|other| Arc::ptr_eq(other, node))
}

/// Who is directly above a node.
#[derive(Clone)]
enum Parent {
    Backend(Arc<Backend>),
    Node(Arc<Node>, Role),
}

impl Parent {
    /// The edge to the node, if it can be led elsewhere.
    fn edge(&self) -> Option<&Edge> {
        match self {
            Parent::Backend(backend) => Some(backend.root()),
            Parent::Node(node, role) => node.driver().edge(*role),
        }
    }
}
