//! Edges of the graph.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::Node;

/// What leads from a user or from a node to the node below, and can be led elsewhere while the graph is in use.
///
/// Who uses it asks for the node anew with each request. Who leads it elsewhere sees to it that no request is under way
/// ([`crate::Graph`]).
#[derive(Debug, Default)]
pub struct Edge {
    // Lock order: alone; it is held for no longer than to copy the pointer.
    node: RwLock<Option<Arc<Node>>>,
}

impl Edge {
    /// An edge to a node, or to none.
    pub fn new(node: Option<Arc<Node>>) -> Edge {
        Edge { node: RwLock::new(node) }
    }

    /// The node that it leads to now.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.node.read().clone()
    }

    /// It leads to some node.
    pub fn is_some(&self) -> bool {
        self.node.read().is_some()
    }

    /// Leads to another node, or to none, from now on; returns the one before.
    pub(crate) fn lead_to(&self, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        std::mem::replace(&mut *self.node.write(), node)
    }
}
