//! What users of nodes do with them, and let others do.

use std::sync::Arc;

use bitflags::bitflags;

use crate::driver::Role;
use crate::{Backend, Error, Node};

bitflags! {
    /// What can be done with a node.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Permission: u8 {
        /// Reading what somebody wrote as a whole: not a part of a disk that is only copied so far.
        const CONSISTENT_READ = 1 << 0;
        /// Changing the bytes.
        const WRITE = 1 << 1;
        /// Writing the bytes that are there already.
        const WRITE_UNCHANGED = 1 << 2;
        /// Changing the length.
        const RESIZE = 1 << 3;
    }
}

impl Permission {
    const NAMES: [(Permission, &str); 4] = [
        (Permission::CONSISTENT_READ, "consistent read"),
        (Permission::WRITE, "write"),
        (Permission::WRITE_UNCHANGED, "write unchanged"),
        (Permission::RESIZE, "resize"),
    ];

    /// Their names, for messages.
    fn names(self) -> String {
        let names = Permission::NAMES.into_iter().filter(|(one, _)| self.contains(*one)).map(|(_, name)| name);
        names.collect::<Vec<_>>().join(", ")
    }
}

/// What a user does, and lets others do at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// What it does.
    pub needed: Permission,
    /// What others may do.
    pub shared: Permission,
}

impl Default for Permissions {
    /// Nothing is done, and everything may be.
    fn default() -> Permissions {
        Permissions { needed: Permission::empty(), shared: Permission::all() }
    }
}

impl Permissions {
    /// A disk that nobody else writes.
    pub fn exclusive(writes: bool) -> Permissions {
        let needed = if writes { Permission::CONSISTENT_READ | Permission::WRITE } else { Permission::CONSISTENT_READ };
        Permissions { needed, shared: Permission::CONSISTENT_READ | Permission::WRITE_UNCHANGED }
    }

    /// A disk that others may write, too (`share-rw=on`).
    pub fn shared(writes: bool) -> Permissions {
        let Permissions { needed, shared } = Permissions::exclusive(writes);
        Permissions { needed, shared: shared | Permission::WRITE }
    }

    /// What a node does with its child, if this is what is done with it and let others do there.
    fn of_child(self, node: &Node, role: Role) -> Permissions {
        if node.driver().is_filter() && role == Role::File {
            return self;
        }
        let reads = Permission::CONSISTENT_READ | Permission::WRITE_UNCHANGED;
        let writes = Permission::WRITE | Permission::RESIZE;
        match role {
            Role::Backing => {
                let shared = if self.shared.contains(Permission::WRITE) { reads | writes } else { reads };
                Permissions { needed: Permission::CONSISTENT_READ, shared }
            }
            Role::File | Role::DataFile | Role::Extent | Role::Raw | Role::Test | Role::Copy => {
                let needed = if node.is_read_only() { Permission::empty() } else { writes };
                Permissions { needed: Permission::CONSISTENT_READ | needed, shared: reads }
            }
        }
    }
}

/// A use of a node, by a user or by a node above.
struct Use {
    node: Arc<Node>,
    user: String,
    role: &'static str,
    permissions: Permissions,
}

/// All uses of nodes that come of these users, each user's before those that follow from it.
fn uses(backends: &[Arc<Backend>]) -> Vec<Use> {
    let mut uses: Vec<Use> = Vec::new();
    for backend in backends {
        let Some(node) = backend.node() else { continue };
        let user = backend.user();
        let description = match (&user.device, backend.name()) {
            (Some(device), _) => format!("block device '{device}'"),
            (None, name) if !name.is_empty() => format!("block device '{name}'"),
            _ if !user.description.is_empty() => user.description.clone(),
            _ => "an unnamed block device".to_owned(),
        };
        uses.push(Use { node, user: description, role: "root", permissions: user.permissions });
    }
    // What a node does below follows from all that is done with it: nodes come after those above.
    for node in from_above(backends.iter().filter_map(|backend| backend.node())) {
        let mut all = Permissions::default();
        for other in uses.iter().filter(|other| Arc::ptr_eq(&other.node, &node)) {
            all.needed |= other.permissions.needed;
            all.shared &= other.permissions.shared;
        }
        for (role, child) in node.driver().children() {
            let permissions = all.of_child(&node, role);
            let user = format!("node '{}'", node.name());
            uses.push(Use { node: child, user, role: role.name(), permissions });
        }
    }
    uses
}

/// These nodes and all below them, each after all that are above it.
pub(crate) fn from_above(roots: impl IntoIterator<Item = Arc<Node>>) -> Vec<Arc<Node>> {
    fn visit(node: &Arc<Node>, done: &mut Vec<Arc<Node>>) {
        if done.iter().any(|other| Arc::ptr_eq(other, node)) {
            return;
        }
        for (_, child) in node.driver().children().into_iter().rev() {
            visit(&child, done);
        }
        done.push(node.clone());
    }
    let mut done = Vec::new();
    let mut roots: Vec<_> = roots.into_iter().collect();
    roots.reverse();
    for node in roots {
        visit(&node, &mut done);
    }
    done.reverse();
    done
}

/// Checks that what the users do goes together.
pub(crate) fn check(backends: &[Arc<Backend>]) -> Result<(), Error> {
    let uses = uses(backends);
    for (at, one) in uses.iter().enumerate() {
        for (other_at, other) in uses.iter().enumerate() {
            let conflict = one.permissions.needed - other.permissions.shared;
            if at != other_at && Arc::ptr_eq(&one.node, &other.node) && !conflict.is_empty() {
                let node = one.node.name();
                return Err(Error::InUse(format!(
                    "Permission conflict on node '{node}': permissions '{}' are both required by {} (uses node '{node}' as \
                     '{}' child) and unshared by {} (uses node '{node}' as '{}' child).",
                    conflict.names(),
                    one.user,
                    one.role,
                    other.user,
                    other.role
                )));
            }
        }
    }
    Ok(())
}
