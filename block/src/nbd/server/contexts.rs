//! What clients can ask of the state of blocks.

use super::export::Export;

/// Most queries of one option.
pub(super) const MOST_QUERIES: u32 = 1024;

const ALLOCATION: &str = "base:allocation";
const DEPTH: &str = "qemu:allocation-depth";
const BITMAP: &str = "qemu:dirty-bitmap:";

/// What is told of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Context {
    /// `base:allocation`: where there are holes and zeros.
    Allocation,
    /// `qemu:allocation-depth`: how many images up the data is.
    Depth,
    /// `qemu:dirty-bitmap:NAME`, by its place in the export.
    Bitmap(usize),
}

impl Context {
    /// All that an export has.
    pub(super) fn all(export: &Export) -> impl Iterator<Item = Context> {
        let depth = export.allocation_depth.then_some(Context::Depth);
        std::iter::once(Context::Allocation).chain(depth).chain((0..export.bitmaps.len()).map(Context::Bitmap))
    }

    /// Its name on the wire.
    pub(super) fn name(self, export: &Export) -> String {
        match self {
            Context::Allocation => ALLOCATION.into(),
            Context::Depth => DEPTH.into(),
            Context::Bitmap(index) => {
                let name = export.bitmaps.get(index).map_or("", |bitmap| bitmap.name());
                format!("{BITMAP}{name}")
            }
        }
    }

    /// Its number on the wire.
    pub(super) fn id(self) -> u32 {
        match self {
            Context::Allocation => 0,
            Context::Depth => 1,
            Context::Bitmap(index) => 2 + index as u32,
        }
    }

    /// Those that the queries ask for, each once. A list may be asked for by the beginning of a name as well.
    pub(super) fn matching(export: &Export, queries: &[String], is_list: bool) -> Vec<Context> {
        let wanted = |context: &Context| {
            let name = context.name(export);
            let is_part =
                |query: &String| ["base:", "qemu:", BITMAP].contains(&query.as_str()) && name.starts_with(query);
            queries.iter().any(|query| *query == name || is_list && is_part(query))
        };
        Context::all(export).filter(|context| is_list && queries.is_empty() || wanted(context)).collect()
    }
}
