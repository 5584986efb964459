//! Changes of disks in use that are made together, or not at all.

use std::sync::Arc;

use super::{Graph, Parent, quiesce, set_read_only};
use crate::driver::Role;
use crate::{DirtyBitmap, Error, Node, SnapshotInfo};

/// A node and the one that is to stand above it: an external snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The node that keeps what it is at this moment.
    pub node: Arc<Node>,
    /// What is written from now on goes here. It has nothing behind it yet, and no user.
    pub overlay: Arc<Node>,
}

/// A bitmap by name: it may come to be by an earlier change.
#[derive(Clone, Debug)]
pub struct BitmapOf {
    /// The node that has it.
    pub node: Arc<Node>,
    /// Its name.
    pub name: String,
}

impl BitmapOf {
    fn find(&self) -> Result<Arc<DirtyBitmap>, Error> {
        let found = self.node.bitmaps().into_iter().find(|bitmap| bitmap.name() == Some(&*self.name));
        found.ok_or_else(|| Error::Option(format!("Dirty bitmap '{}' not found", self.name)))
    }
}

/// A change of a disk.
#[derive(Clone, Debug)]
pub enum Action {
    /// Users of a node, and nodes that have it behind them, have another one above it from then on.
    Snapshot(Snapshot),
    /// A node's image keeps its present state, under a name that must be new.
    InternalSnapshot {
        /// The node.
        node: Arc<Node>,
        /// What it is kept as.
        info: SnapshotInfo,
    },
    /// Writes to a node are marked in another bitmap.
    AddBitmap {
        /// The node.
        node: Arc<Node>,
        /// The bitmap's name, which must be new.
        name: String,
        /// Bytes that a bit stands for: a power of two.
        granularity: u64,
        /// Writes are marked from then on.
        is_recording: bool,
    },
    /// A node has a bitmap no more.
    RemoveBitmap(BitmapOf),
    /// A bitmap has no marks any more.
    ClearBitmap(BitmapOf),
    /// A bitmap marks writes from then on, or does not.
    SetRecording(BitmapOf, bool),
    /// A bitmap also marks what another one marks.
    MergeBitmap {
        /// The one that gets the marks.
        target: BitmapOf,
        /// The one that has them.
        source: BitmapOf,
    },
    /// Everything is undone.
    Abort,
}

/// What undoes an action.
enum Undo {
    LeadBack(Moved, Arc<Node>),
    DeleteSnapshot(Arc<Node>, String),
    RemoveBitmap(Arc<Node>, Arc<DirtyBitmap>),
    PutBitmap(Arc<Node>, Arc<DirtyBitmap>),
    RestoreMarks(Arc<DirtyBitmap>, Vec<u64>),
    SetRecording(Arc<DirtyBitmap>, bool),
}

/// Edges that were led elsewhere, to lead them back.
struct Moved {
    parents: Vec<Parent>,
    from: Arc<Node>,
}

impl Action {
    /// The node whose users wait while it is made.
    fn node(&self) -> Option<&Arc<Node>> {
        match self {
            Action::Snapshot(Snapshot { node, .. })
            | Action::InternalSnapshot { node, .. }
            | Action::AddBitmap { node, .. }
            | Action::RemoveBitmap(BitmapOf { node, .. })
            | Action::ClearBitmap(BitmapOf { node, .. })
            | Action::SetRecording(BitmapOf { node, .. }, _)
            | Action::MergeBitmap { target: BitmapOf { node, .. }, .. } => Some(node),
            Action::Abort => None,
        }
    }
}

impl Graph {
    /// Makes changes one after the other, while no request of whose disks these are is under way. If one fails, those before it are undone.
    pub async fn transaction(&self, actions: &[Action]) -> Result<(), Error> {
        let _change = self.changing.lock().await;
        let nodes: Vec<_> = actions.iter().filter_map(Action::node).cloned().collect();
        let users = self.users_of(&nodes);
        {
            let _alone = quiesce(&users).await;
            let mut done = Vec::new();
            let mut failed = None;
            for action in actions {
                match self.act(action).await {
                    Ok(undo) => done.push(undo),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            if let Some(error) = failed {
                for undo in done.into_iter().rev() {
                    undo.undo().await;
                }
                return Err(error);
            }
            for action in actions {
                // Nobody writes it any more; it need not be able to say so.
                if let Action::Snapshot(snapshot) = action
                    && let Err(error) = set_read_only(&snapshot.node, true).await
                {
                    tracing::debug!("{error}");
                }
            }
        }
        for user in users {
            user.tell_length();
        }
        Ok(())
    }

    async fn act(&self, action: &Action) -> Result<Undo, Error> {
        match action {
            Action::Snapshot(snapshot) => {
                self.put_above(snapshot).await.map(|moved| Undo::LeadBack(moved, snapshot.overlay.clone()))
            }
            Action::InternalSnapshot { node, info } => {
                let snapshots = node.driver().internal_snapshots().ok_or_else(|| {
                    let driver = node.driver().name();
                    Error::Unsupported(format!("driver '{driver}' does not support internal snapshots"))
                })?;
                if snapshots.list().await.iter().any(|other| other.name == info.name) {
                    return Err(Error::Option(format!("Snapshot with name '{}' already exists", info.name)));
                }
                snapshots.create(info).await.map(|id| Undo::DeleteSnapshot(node.clone(), id))
            }
            Action::AddBitmap { node, name, granularity, is_recording } => {
                let bitmap = node.add_bitmap(name, *granularity, *is_recording)?;
                Ok(Undo::RemoveBitmap(node.clone(), bitmap))
            }
            Action::RemoveBitmap(of) => {
                let bitmap = of.find()?;
                of.node.remove_bitmap(&bitmap);
                Ok(Undo::PutBitmap(of.node.clone(), bitmap))
            }
            Action::ClearBitmap(of) => {
                let bitmap = of.find()?;
                let marks = bitmap.clear();
                Ok(Undo::RestoreMarks(bitmap, marks))
            }
            Action::SetRecording(of, recording) => {
                let bitmap = of.find()?;
                let before = bitmap.is_recording();
                bitmap.set_recording(*recording);
                Ok(Undo::SetRecording(bitmap, before))
            }
            Action::MergeBitmap { target, source } => {
                let (target, source) = (target.find()?, source.find()?);
                if source.length() != target.length() {
                    return Err(Error::Unsupported(format!(
                        "Bitmaps are of different sizes (destination size is {}, source size is {})",
                        target.length(),
                        source.length()
                    )));
                }
                let before = target.marks();
                target.merge(&source);
                Ok(Undo::RestoreMarks(target, before))
            }
            Action::Abort => Err(Error::Option("Transaction aborted using Abort action".into())),
        }
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
    fn lead_parents(&self, from: &Arc<Node>, to: &Arc<Node>) -> Result<Moved, Error> {
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

impl Undo {
    async fn undo(self) {
        match self {
            Undo::LeadBack(moved, overlay) => {
                moved.lead_back();
                lead_behind(&overlay, None);
            }
            Undo::DeleteSnapshot(node, id) => {
                if let Some(snapshots) = node.driver().internal_snapshots()
                    && let Err(error) = snapshots.delete(&id).await
                {
                    tracing::error!("snapshot {id} of node {} stays: {error}", node.name());
                }
            }
            Undo::RemoveBitmap(node, bitmap) => node.remove_bitmap(&bitmap),
            Undo::PutBitmap(node, bitmap) => node.put_bitmap(bitmap),
            Undo::RestoreMarks(bitmap, marks) => bitmap.restore(marks),
            Undo::SetRecording(bitmap, recording) => bitmap.set_recording(recording),
        }
    }
}

impl Moved {
    /// Undoes it.
    fn lead_back(self) {
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
