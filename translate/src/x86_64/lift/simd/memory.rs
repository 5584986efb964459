//! Instructions that access single elements in memory.

use iced_x86::Register as Named;

use crate::ir::{BinaryOp, Type};

use super::super::super::helpers::{Gather, MaskedMove, id};
use super::super::operand::segment_name;
use super::super::{Lifted, Lifter, Result};

impl Lifter {
    /// VMASKMOVPS and its kin; `double`: elements of 8 bytes.
    pub(super) fn move_masked(&mut self, double: bool) -> Result {
        let parts = 2 * self.half_count();
        let store = self.is_memory(0);
        let place = self.place_of_bytes(8 * parts as u64, store)?;
        let address = self.address_of(place);
        let how = MaskedMove {
            register: self.number(if store { 2 } else { 0 }),
            mask: self.number(1),
            double,
            count: if double { parts } else { 2 * parts } as u8,
            mode: self.mode,
        };
        let how = self.constant(how.encode());
        self.helper(if store { id::MASKED_STORE } else { id::MASKED_LOAD }, &[address, how]);
        Ok(Lifted::Next)
    }

    /// VGATHERDPS and its kin.
    pub(super) fn gather(&mut self, double_index: bool, double: bool) -> Result {
        let parts = 2 * self.half_count();
        let (base, index) = (self.i.memory_base(), self.i.memory_index());
        let how = Gather {
            destination: self.number(0),
            index: index.number() as u8,
            mask: self.number(2),
            double,
            double_index,
            count: if double || double_index { parts } else { 2 * parts } as u8,
            scale: self.i.memory_index_scale().trailing_zeros() as u8,
            short_address: match base {
                Named::None => self.i.memory_displ_size() != 8,
                base => base.size() == 4,
            },
            segment: segment_name(self.i.memory_segment()),
            mode: self.mode,
        };
        let displacement = self.constant(self.i.memory_displacement64());
        let address = if base == Named::None {
            displacement
        } else {
            let base = self.read_named(base).raw;
            self.b.binary(BinaryOp::Add, Type::I64, base, displacement)
        };
        let how = self.constant(how.encode());
        self.helper(id::GATHER, &[address, how]);
        Ok(Lifted::Next)
    }
}
