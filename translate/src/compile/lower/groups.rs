//! Memory accesses that share one look-up in the soft TLB: those of a block that are near one another off the same address, as of
//! a stack frame or a structure.
//!
//! The first of a group looks up all that the group accesses. Where that is in one page and in the TLB, the others go to the host's memory
//! without looking again; otherwise each of them looks for itself. What was looked up holds until the end of the block: the processor
//! drops translations in helpers and between blocks only.

use crate::guest::{Guest, helper_of};
use crate::ir::{BinaryOp, Block, MemoryMode, Op, Type, Value, VectorOp};

/// Most bytes from the first to the last of a group: the more, the more often the end of a page is among them.
const MOST_BYTES: i64 = 256;

/// Accesses that share a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    root: Root,
    mode: MemoryMode,
    /// It looks for a page that may be written. Reads may share it.
    write: bool,
    /// Distances from the root of its first byte and of the byte behind its last.
    start: i64,
    end: i64,
    members: u32,
}

impl Group {
    pub(super) fn bytes(&self) -> u64 {
        (self.end - self.start) as u64
    }
}

/// What addresses are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Value(Value),
    /// The start of the block.
    Code,
}

/// An access as a member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Number of the group.
    pub(super) group: usize,
    /// How far from the group's first byte it is.
    pub(super) distance: i64,
    /// It is the one that looks up.
    pub(super) first: bool,
}

/// The groups of a block.
#[derive(Default)]
pub(super) struct Groups {
    pub(super) groups: Vec<Group>,
    /// For each access its place, its group, its distance from the root, and whether it comes first.
    members: Vec<(usize, usize, i64, bool)>,
}

struct Access {
    address: Value,
    offset: i32,
    bytes: u64,
    mode: MemoryMode,
    write: bool,
}

fn access(op: &Op) -> Option<Access> {
    Some(match *op {
        Op::Load { width, mode, address, offset, .. } => {
            Access { address, offset, bytes: width.bytes(), mode, write: false }
        }
        Op::Store { width, mode, address, offset, .. } => {
            Access { address, offset, bytes: width.bytes(), mode, write: true }
        }
        Op::Vector(VectorOp::Load { mode, address, offset }) => {
            Access { address, offset, bytes: 16, mode, write: false }
        }
        Op::Vector(VectorOp::Store { mode, address, offset, .. }) => {
            Access { address, offset, bytes: 16, mode, write: true }
        }
        _ => return None,
    })
}

impl Groups {
    pub(super) fn of<G: Guest>(block: &Block) -> Groups {
        let mut all = Groups::default();
        // Those that may get more members.
        let mut open: Vec<usize> = Vec::new();
        for (place, op) in block.ops.iter().enumerate() {
            if helper_of::<G>(op).is_some_and(|helper| !helper.effects.only_computes()) {
                open.clear();
            }
            let Some(access) = access(op) else { continue };
            let (root, distance) = root(block, access.address);
            let start = distance.wrapping_add(access.offset.into());
            let Some(end) = start.checked_add(access.bytes as i64) else { continue };
            let joined = open.iter().copied().find(|number| {
                let group = &all.groups[*number];
                let extent = group.end.max(end).checked_sub(group.start.min(start));
                group.root == root
                    && group.mode == access.mode
                    && (group.write || !access.write)
                    && extent.is_some_and(|extent| extent <= MOST_BYTES)
            });
            let number = joined.unwrap_or_else(|| {
                open.push(all.groups.len());
                let Access { mode, write, .. } = access;
                all.groups.push(Group { root, mode, write, start, end, members: 0 });
                all.groups.len() - 1
            });
            let group = &mut all.groups[number];
            group.start = group.start.min(start);
            group.end = group.end.max(end);
            group.members += 1;
            all.members.push((place, number, start, joined.is_none()));
        }
        all
    }

    /// The access of the operation at `place` as one of a group of several.
    pub(super) fn member(&self, place: usize) -> Option<Member> {
        let index = self.members.binary_search_by_key(&place, |(place, ..)| *place).ok()?;
        let (_, group, start, first) = self.members[index];
        let whole = &self.groups[group];
        (whole.members > 1).then(|| Member { group, distance: start - whole.start, first })
    }
}

/// What an address is counted from, and how far it is from there.
fn root(block: &Block, address: Value) -> (Root, i64) {
    let constant = |value: Value| match block.ops[usize::from(value.0)] {
        Op::Const { bits, .. } => Some(bits as i64),
        _ => None,
    };
    let (mut value, mut distance) = (address, 0_i64);
    loop {
        match block.ops[usize::from(value.0)] {
            Op::Binary { op: BinaryOp::Add, ty: Type::I64, a, b } if constant(b).is_some() => {
                distance = distance.wrapping_add(constant(b).unwrap_or(0));
                value = a;
            }
            Op::Binary { op: BinaryOp::Sub, ty: Type::I64, a, b } if constant(b).is_some() => {
                distance = distance.wrapping_sub(constant(b).unwrap_or(0));
                value = a;
            }
            Op::CodeAddress { distance: from_start } => return (Root::Code, distance.wrapping_add(from_start)),
            _ => return (Root::Value(value), distance),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{GuestNames, parse};
    use crate::riscv64::Riscv64;

    fn groups(ops: &str) -> Groups {
        let text = format!("block 0x1000, 4\n0x1000:\n{ops}jump 0x1004\n");
        Groups::of::<Riscv64>(&parse(&text, &GuestNames::<Riscv64>::new()).unwrap())
    }

    fn member(groups: &Groups, place: usize) -> Option<(usize, i64, bool)> {
        groups.member(place).map(|member| (member.group, member.distance, member.first))
    }

    #[test]
    fn accesses_off_one_address_share_a_look_up() {
        let groups = groups(
            "v0 = get x2
             v1 = const.i64 0xffffffffffffffe0
             v2 = add.i64 v0, v1
             v3 = load_u.double.m0 v2, 24
             v4 = load_s.word.m0 v0, -16
             v5 = load_u.double.m0 v0, 1000
             v6 = load_u.double.m1 v0, -16
             ",
        );
        assert_eq!(member(&groups, 3), Some((0, 8, true)));
        assert_eq!(member(&groups, 4), Some((0, 0, false)));
        assert_eq!(groups.groups[0].bytes(), 16);
        assert_eq!((member(&groups, 5), member(&groups, 6)), (None, None), "too far, and another regime");
    }

    #[test]
    fn writes_do_not_share_what_was_looked_up_for_reads() {
        let groups = groups(
            "v0 = get x2
             v1 = load_u.double.m0 v0, 0
             store.double.m0 v0, 8, v1
             v3 = load_u.double.m0 v0, 16
             store.double.m0 v0, 24, v3
             ",
        );
        assert_eq!((member(&groups, 1), member(&groups, 3)), (Some((0, 0, true)), Some((0, 16, false))));
        assert_eq!((member(&groups, 2), member(&groups, 4)), (Some((1, 0, true)), Some((1, 16, false))));
    }
}
