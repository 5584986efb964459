//! Block node graph: protocols, formats and filters of disk images, each an async interface.
//!
//! A [`Node`] is a disk of bytes that a [`Driver`] makes, out of a file of the host or of other nodes. Guest devices, exports and the
//! image tool are users of nodes, each with a [`Backend`]. Guest devices and their registers do not live here.
//!
//! Requests are futures that need no particular executor: whoever polls them drives them, and threads that may wait have
//! `_blocking` forms.
//!
//! Read first: [`Node`], [`Driver`], [`IoVector`], [`Backend`].

mod backend;
pub mod bochs;
mod check;
mod clock;
pub mod cloop;
mod create;
mod deflate;
mod dirty;
pub mod dmg;
mod driver;
mod edge;
mod error;
mod fields;
mod file;
pub mod filters;
mod graph;
mod inspect;
mod io_vector;
mod memory;
pub mod nbd;
mod neighbours;
mod node;
mod open;
pub mod operations;
mod options;
pub mod parallels;
mod permissions;
mod policy;
pub mod protocols;
pub mod qcow;
pub mod qcow2;
mod range_lock;
mod raw;
mod size;
mod slice;
mod sparse;
mod statistics;
pub mod throttle;
mod together;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;

pub use backend::{Backend, ErrorPolicy, Listener, User};
pub use check::{CheckResult, Repair, Report};
pub use clock::{Clock, HostClock};
pub use create::create;
pub use dirty::DirtyBitmap;
pub use driver::{Driver, InternalSnapshots, Preallocation, Role, SnapshotInfo, Status, StatusKind, ZeroFlags, Zeroed};
pub use edge::Edge;
pub use error::{Error, host_words};
pub use fields::FieldError;
pub use file::{Engine, FileOptions, HostFile, HostKind, Sharing};
pub use graph::{Action, BitmapOf, ChildOptions, ExportOptions, ExportState, Graph, NodeOptions, Snapshot};
pub use inspect::{Format, Image, Part};
pub use io_vector::IoVector;
pub use memory::MemoryDisk;
pub use node::{DetectZeroes, Node, Settings};
pub use open::{ImageOptions, open};
pub use options::{FormatOption, OptionError, OptionKind, OptionValues, split as split_options};
pub use permissions::{Permission, Permissions};
pub use policy::{ErrorAction, FailedRequest, IoStatus, OnError, Operation};
pub use raw::{Raw, RawOptions};
pub use size::{SizeError, parse_size};
pub use statistics::{Count, Counted, Statistics};
