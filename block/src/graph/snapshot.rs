//! External snapshots: images that come to stand above nodes in use.

use std::sync::Arc;

use super::{Graph, Parent, set_read_only};
use crate::driver::Role;
use crate::{Error, Node};

/// A node and the one that is to stand above it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The node that keeps what it is at this moment.
    pub node: Arc<Node>,
    /// What is written from now on goes here. It has nothing behind it yet, and no user.
    pub overlay: Arc<Node>,
}

/// Edges that were led elsewhere, to lead them back.
pub(super) struct Moved {
    parents: Vec<Parent>,
    from: Arc<Node>,
}

impl Graph {
    /// Puts nodes above others, all of them or none: users of each node, and nodes that have it behind them, have the one above it from
    /// then on.
    pub async fn take_snapshots(&self, snapshots: &[Snapshot]) -> Result<(), Error> {
        let _change = self.changing.lock().await;
        let nodes: Vec<_> = snapshots.iter().map(|snapshot| snapshot.node.clone()).collect();
        let users = self.users_of(&nodes);
        {
            let mut alone = Vec::new();
            for user in &users {
                alone.push(user.quiesce().await);
            }
            let mut done: Vec<(Moved, &Snapshot)> = Vec::new();
            let mut failed = None;
            for snapshot in snapshots {
                match self.put_above(snapshot).await {
                    Ok(moved) => done.push((moved, snapshot)),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            if let Some(error) = failed {
                for (moved, snapshot) in done.into_iter().rev() {
                    moved.lead_back();
                    lead_behind(&snapshot.overlay, None);
                }
                return Err(error);
            }
            for snapshot in snapshots {
                // Nobody writes it any more; it need not be able to say so.
                if let Err(error) = set_read_only(&snapshot.node, true).await {
                    tracing::debug!("{error}");
                }
            }
        }
        for user in users {
            user.tell_length();
        }
        Ok(())
    }

    async fn put_above(&self, snapshot: &Snapshot) -> Result<Moved, Error> {
        let Snapshot { node, overlay } = snapshot;
        let refused = |why: String| Err(Error::Unsupported(why));
        if overlay.driver().edge(Role::Backing).is_none() {
            return refused("The overlay does not support backing images".into());
        }
        if overlay.child(Role::Backing).is_some() {
            return refused("The overlay already has a backing image".into());
        }
        if Arc::ptr_eq(node, overlay) || self.parents(overlay).next().is_some() {
            return Err(Error::InUse("The overlay is already in use".into()));
        }
        if super::is_below(node, overlay) {
            return refused(format!(
                "Making '{}' a backing child of '{}' would create a cycle",
                node.name(),
                overlay.name()
            ));
        }
        node.flush().await?;
        let moved = self.lead_parents(node, overlay)?;
        lead_behind(overlay, Some(node.clone()));
        if let Err(error) = self.check_permissions() {
            moved.lead_back();
            lead_behind(overlay, None);
            return Err(error);
        }
        Ok(moved)
    }

    /// Leads all that have one node to another.
    pub(super) fn lead_parents(&self, from: &Arc<Node>, to: &Arc<Node>) -> Result<Moved, Error> {
        let parents: Vec<Parent> = self.parents(from).collect();
        for parent in &parents {
            if let (Parent::Node(above, role), None) = (parent, parent.edge()) {
                return Err(Error::InUse(format!(
                    "node '{}' is the '{}' child of node '{}' (driver '{}'), which cannot have another one while it is in use",
                    from.name(),
                    role.name(),
                    above.name(),
                    above.driver().name()
                )));
            }
        }
        for edge in parents.iter().filter_map(Parent::edge) {
            edge.lead_to(Some(to.clone()));
        }
        Ok(Moved { parents, from: from.clone() })
    }
}

impl Moved {
    /// Undoes it.
    pub(super) fn lead_back(self) {
        for edge in self.parents.iter().filter_map(Parent::edge) {
            edge.lead_to(Some(self.from.clone()));
        }
    }
}

fn lead_behind(overlay: &Node, node: Option<Arc<Node>>) {
    if let Some(edge) = overlay.driver().edge(Role::Backing) {
        edge.lead_to(node);
    }
}
