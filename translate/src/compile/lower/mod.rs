//! Lowers a region to Cranelift's representation.
//!
//! Guest registers that the region uses are loaded at its entry and live in SSA values from then on. Those that were written
//! are stored back where the region is left: at its exits, and in the cold blocks of operations that raise exceptions.

mod atomic;
mod exits;
mod float;
mod groups;
mod integer;
mod memory;
mod registers;
mod terminator;
mod vector;

use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self as clif, InstBuilder, MemFlagsData, SigRef, UserFuncName, types};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};

use super::runtime::{Runtime, plain_signature, region_signature};
use super::{Access, Function, Target};
use crate::cpu::{Context, Status};
use crate::engine::{Key, Region};
use crate::guest::{Exception, Guest};
use crate::ir::{Block, Comparison, Op, Type, UnaryOp, Value, Width};
use exits::Exits;
use groups::Groups;
use registers::{Homes, Registers};

/// What a symbol of lowered code stands for: see [`Lowering::cell`].
pub(super) fn target(name: &clif::UserExternalName) -> Target {
    Target::Cell(name.index as i32 as i16)
}

/// Lowers `region` into `function`.
pub(super) fn lower<G: Guest>(
    runtime: &Runtime<G>,
    region: &Region,
    function: &mut clif::Function,
    builder_context: &mut FunctionBuilderContext,
) {
    *function = clif::Function::with_name_signature(UserFuncName::default(), region_signature());
    let mut builder = FunctionBuilder::new(function, builder_context);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);
    let context = builder.block_params(entry)[0];
    let tlb = builder.ins().load(types::I64, trusted(), context, offset_of!(Context, tlb) as i32);
    let attention = builder.ins().load(types::I64, trusted(), context, offset_of!(Context, attention) as i32);

    let homes = Homes::of(region, &mut builder, context);
    let retired = builder.declare_var(types::I64);
    let zero = builder.ins().iconst(types::I64, 0);
    builder.def_var(retired, zero);

    let blocks: Vec<clif::Block> = region.blocks.iter().map(|_| builder.create_block()).collect();
    builder.ins().jump(blocks[0], &[]);

    let signatures = Signatures {
        region: builder.import_signature(region_signature()),
        jump: builder.import_signature(super::jump::signature()),
        slow_path: [3, 4].map(|arguments| builder.import_signature(plain_signature(CallConv::PreserveAll, arguments))),
        helper: {
            let mut signature = plain_signature(runtime.isa.default_call_conv(), 4);
            signature.returns.push(clif::AbiParam::new(types::I64));
            builder.import_signature(signature)
        },
    };
    let dirty_at_start = homes.dirty_at_start(region);
    let mut lowering = Lowering {
        runtime,
        region,
        builder,
        blocks,
        signatures,
        context,
        tlb,
        attention,
        homes,
        retired,
        dirty: Registers::default(),
        values: Vec::new(),
        floats: Vec::new(),
        float_uses: Vec::new(),
        block: &region.code[0],
        groups: Groups::default(),
        exits: Exits::default(),
        group_variables: Vec::new(),
        from_head: 0,
    };
    for (position, dirty) in dirty_at_start.into_iter().enumerate() {
        lowering.lower_block(position, dirty);
    }
    let mut builder = lowering.builder;
    builder.seal_all_blocks();
    builder.finalize(runtime.isa.frontend_config());
}

/// Flags of an access to the processor's own state: it is aligned and never faults.
fn trusted() -> MemFlagsData {
    MemFlagsData::trusted()
}

/// Flags of an access to guest memory: it never faults, and may be unaligned.
fn guest_memory() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

fn clif_type(ty: Type) -> clif::Type {
    match ty {
        Type::I8 => types::I8,
        Type::I16 => types::I16,
        Type::I32 => types::I32,
        Type::I64 => types::I64,
        Type::F32 => types::F32,
        Type::F64 => types::F64,
        Type::V128 => types::I64X2,
    }
}

struct Signatures {
    region: SigRef,
    /// Of the functions that look for an address in the jump cache.
    jump: SigRef,
    /// Of slow paths with three and with four arguments.
    slow_path: [SigRef; 2],
    helper: SigRef,
}

struct Lowering<'a, G: Guest> {
    runtime: &'a Runtime<G>,
    region: &'a Region,
    builder: FunctionBuilder<'a>,
    /// One for each block of the region.
    blocks: Vec<clif::Block>,
    signatures: Signatures,
    context: clif::Value,
    tlb: clif::Value,
    attention: clif::Value,
    homes: Homes,
    /// Instructions of the blocks completed since the region was entered.
    retired: Variable,
    /// Registers that may have been written since then, as [`Homes`] counts them.
    dirty: Registers,
    /// Results of the operations of the block in progress.
    values: Vec<Option<clif::Value>>,
    /// For those that are the bits of an F64: that number.
    floats: Vec<Option<clif::Value>>,
    /// For each of them, whether it is only used as such a number.
    float_uses: Vec<bool>,
    block: &'a Block,
    /// Its accesses that share look-ups.
    groups: Groups,
    exits: Exits,
    /// Where the host addresses of its groups are.
    group_variables: Vec<Variable>,
    /// How far from the head the block in progress starts, bytes.
    from_head: i64,
}

impl<G: Guest> Lowering<'_, G> {
    fn lower_block(&mut self, position: usize, dirty: Registers) {
        let region = self.region;
        self.block = &region.code[position];
        self.from_head = region.blocks[position].key.distance_from(&region.blocks[0].key);
        self.groups = Groups::of::<G>(self.block);
        self.dirty = dirty;
        self.values = vec![None; self.block.ops.len()];
        self.floats = vec![None; self.block.ops.len()];
        self.float_uses = self.homes.float_uses::<G>(self.block);
        self.begin_exits();
        self.builder.switch_to_block(self.blocks[position]);
        let own = region.blocks[position].key;
        let loops = region.blocks[position..].iter().any(|block| block.successors().any(|next| next == own));
        if position == 0 || loops {
            self.check_attention();
        }
        for (place, op) in self.block.ops.iter().enumerate() {
            self.values[place] = self.lower_op(place, op);
        }
        self.lower_terminator(position);
        self.end_exits();
    }

    fn value(&self, value: Value) -> clif::Value {
        self.values[usize::from(value.0)].expect("a well-formed block defines values before their uses")
    }

    fn constant(&mut self, value: u64) -> clif::Value {
        self.builder.ins().iconst(types::I64, value as i64)
    }

    fn store_context(&mut self, value: clif::Value, offset: usize) {
        self.builder.ins().store(trusted(), value, self.context, offset as i32);
    }

    /// Leaves before the block if another thread wants the processor.
    fn check_attention(&mut self) {
        let word = self.builder.ins().load(types::I32, trusted(), self.attention, 0);
        let (leave, stay) = (self.cold_block(), self.builder.create_block());
        self.builder.ins().brif(word, leave, &[], stay, &[]);
        self.builder.switch_to_block(leave);
        self.exit_before_block();
        self.builder.switch_to_block(stay);
    }

    /// The guest-virtual address at a distance from the start of the block in progress. Until the region is left, the program counter
    /// is where it was entered: at the head.
    fn code_address(&mut self, distance: i64) -> clif::Value {
        let pc = self.head_address();
        let distance = distance.wrapping_add(self.from_head);
        if distance == 0 { pc } else { self.builder.ins().iadd_imm_s(pc, distance) }
    }

    /// The guest-virtual address of the head.
    fn head_address(&mut self) -> clif::Value {
        self.builder.ins().load(types::I64, trusted(), self.context, offset_of!(Context, pc) as i32)
    }

    /// Sets the program counter to that address, because the region is left.
    fn store_pc(&mut self, distance: i64) {
        let pc = self.code_address(distance);
        self.store_context(pc, offset_of!(Context, pc));
    }

    fn cold_block(&mut self) -> clif::Block {
        let block = self.builder.create_block();
        self.builder.set_cold_block(block);
        block
    }

    /// Makes the block in progress one that is seldom reached.
    fn set_cold(&mut self) {
        if let Some(block) = self.builder.current_block() {
            self.builder.set_cold_block(block);
        }
    }

    /// Stores written registers and counts the instructions retired: those of earlier blocks and `more`.
    fn write_back(&mut self, more: usize) {
        self.store_written_registers();
        let more = self.constant(more as u64);
        self.count_retired(more);
    }

    /// Counts the instructions retired, those of earlier blocks and `more`.
    fn count_retired(&mut self, more: clif::Value) {
        let retired = self.builder.use_var(self.retired);
        let offset = offset_of!(Context, instructions);
        let before = self.builder.ins().load(types::I64, trusted(), self.context, offset as i32);
        let sum = self.builder.ins().iadd(before, retired);
        let sum = self.builder.ins().iadd(sum, more);
        self.store_context(sum, offset);
    }

    /// Sets the status for an exception.
    fn set_exception(&mut self, number: u32, information: clif::Value) {
        let offset = offset_of!(Context, exception);
        let number = self.builder.ins().iconst(types::I32, i64::from(number));
        self.store_context(number, offset + offset_of!(Exception, number));
        self.store_context(information, offset + offset_of!(Exception, information));
        let status = self.builder.ins().iconst(types::I32, Status::Raised as i64);
        self.store_context(status, offset_of!(Context, status));
    }

    /// After a call: leaves if the status is set.
    fn check_status(&mut self, place: usize) {
        let status = self.builder.ins().load(types::I32, trusted(), self.context, offset_of!(Context, status) as i32);
        let (stopped, goes_on) = (self.cold_block(), self.builder.create_block());
        self.builder.ins().brif(status, stopped, &[], goes_on, &[]);
        self.builder.switch_to_block(stopped);
        self.exit_before(place);
        self.builder.switch_to_block(goes_on);
    }

    fn lower_op(&mut self, place: usize, op: &Op) -> Option<clif::Value> {
        Some(match *op {
            Op::Const { ty, bits } => match ty {
                Type::F32 | Type::F64 => self.float_constant(ty, bits),
                _ => {
                    // Immediates of narrow types are given sign-extended.
                    let extended = crate::interpret::sign_extend(ty, bits) as i64;
                    let immediate = if ty == Type::I64 { extended } else { extended & ty.mask() as i64 };
                    self.builder.ins().iconst(clif_type(ty), immediate)
                }
            },
            Op::CodeAddress { distance } => self.code_address(distance),
            Op::Get { register } => self.read_register(place, register),
            Op::Put { register, value } => {
                self.write_register(register, value);
                return None;
            }
            Op::Binary { op, ty, a, b } => {
                self.floats[place] = self.change_of_sign(op, a, b);
                self.binary(op, ty, self.value(a), self.value(b))
            }
            Op::Unary { op, a, .. } => {
                let a = self.value(a);
                let ins = self.builder.ins();
                match op {
                    UnaryOp::Not => ins.bnot(a),
                    UnaryOp::Negate => ins.ineg(a),
                    UnaryOp::CountLeadingZeros => ins.clz(a),
                    UnaryOp::CountTrailingZeros => ins.ctz(a),
                    UnaryOp::PopulationCount => ins.popcnt(a),
                    UnaryOp::ByteSwap => ins.bswap(a),
                }
            }
            Op::Compare { op, a, b, .. } => {
                let (a, b) = (self.value(a), self.value(b));
                let condition = match op {
                    Comparison::Equal => IntCC::Equal,
                    Comparison::NotEqual => IntCC::NotEqual,
                    Comparison::LessSigned => IntCC::SignedLessThan,
                    Comparison::LessUnsigned => IntCC::UnsignedLessThan,
                    Comparison::LessEqualSigned => IntCC::SignedLessThanOrEqual,
                    Comparison::LessEqualUnsigned => IntCC::UnsignedLessThanOrEqual,
                };
                self.builder.ins().icmp(condition, a, b)
            }
            Op::Select { condition, a, b, .. } => {
                let (condition, a, b) = (self.value(condition), self.value(a), self.value(b));
                self.builder.ins().select(condition, a, b)
            }
            Op::Extend { signed, to, a, .. } => {
                let a = self.value(a);
                if signed {
                    self.builder.ins().sextend(clif_type(to), a)
                } else {
                    self.builder.ins().uextend(clif_type(to), a)
                }
            }
            Op::Truncate { to, a, .. } => {
                let a = self.value(a);
                self.builder.ins().ireduce(clif_type(to), a)
            }
            Op::Bitcast { to: Type::F64, a, .. } => self.as_float(a),
            Op::Bitcast { from, to, a } => {
                let a = self.value(a);
                if from == Type::F64 {
                    self.floats[place] = Some(a);
                }
                self.builder.ins().bitcast(clif_type(to), MemFlagsData::new(), a)
            }
            Op::Load { width, signed, mode, address, offset } => {
                let address = self.address(address, offset);
                let access = Access { signed, ..Access::new(width, mode) };
                if width != Width::Double || !self.float_uses[place] {
                    return Some(self.load(place, address, access, types::I64));
                }
                let number = self.load(place, address, access, types::F64);
                self.floats[place] = Some(number);
                self.builder.ins().bitcast(types::I64, MemFlagsData::new(), number)
            }
            Op::Store { width, mode, address, offset, value } => {
                let address = self.address(address, offset);
                let stored = match self.floats[usize::from(value.0)] {
                    Some(number) if width == Width::Double => number,
                    _ => self.value(value),
                };
                self.store(place, address, Access::new(width, mode), stored);
                return None;
            }
            Op::ProbeWrite { bytes, mode, address, offset } => {
                let address = self.address(address, offset);
                self.probe_write(place, address, bytes, mode);
                return None;
            }
            Op::AtomicReadModifyWrite { op, width, mode, address, value } => {
                let access = Access { atomic: op, ..Access::new(width, mode) };
                self.read_modify_write(place, self.address(address, 0), access, self.value(value))
            }
            Op::AtomicCompareExchange { width, mode, address, expected, new } => {
                let (address, access) = (self.address(address, 0), Access::new(width, mode));
                self.compare_exchange(place, address, access, self.value(expected), self.value(new))
            }
            Op::LoadReserved { width, mode, address } => {
                self.load_reserved(place, self.address(address, 0), Access::new(width, mode))
            }
            Op::StoreConditional { width, mode, address, value } => {
                let access = Access::new(width, mode);
                self.store_conditional(place, self.address(address, 0), access, self.value(value))
            }
            Op::Fence { store_load } => {
                self.fence(store_load);
                return None;
            }
            Op::FloatBinary { op, a, b, .. } => {
                let result = self.float_binary(op, self.value(a), self.value(b));
                self.keep_flags(place, result)
            }
            Op::FloatSquareRoot { a, .. } => {
                let a = self.value(a);
                let result = self.builder.ins().sqrt(a);
                self.keep_flags(place, result)
            }
            Op::FloatCanonical { ty, a } => self.canonical(ty, self.value(a)),
            Op::FloatMultiplyAdd { ty, a, b, c } => self.multiply_add(ty, self.value(a), self.value(b), self.value(c)),
            Op::FloatCompare { op, a, b, .. } => self.float_compare(place, op, self.value(a), self.value(b)),
            Op::FloatConvert { to, a, .. } => {
                let a = self.value(a);
                let result = match to {
                    Type::F64 => self.builder.ins().fpromote(types::F64, a),
                    _ => self.builder.ins().fdemote(types::F32, a),
                };
                self.keep_flags(place, result)
            }
            Op::IntegerToFloat { to, a, .. } => {
                let a = self.value(a);
                let result = self.builder.ins().fcvt_from_sint(clif_type(to), a);
                self.keep_flags(place, result)
            }
            Op::Vector(op) => return self.vector(place, op),
            Op::Helper { helper, arguments } => self.helper(place, helper, arguments),
            Op::RaiseIf { condition, exception, information } => {
                let (condition, information) = (self.value(condition), self.value(information));
                let (raise, goes_on) = (self.cold_block(), self.builder.create_block());
                self.builder.ins().brif(condition, raise, &[], goes_on, &[]);
                self.builder.switch_to_block(raise);
                self.set_exception(exception, information);
                self.exit_before(place);
                self.builder.switch_to_block(goes_on);
                return None;
            }
        })
    }

    /// The address of a function of the host.
    fn function(&mut self, function: Function) -> clif::Value {
        let table = offset_of!(Context, functions) as i32;
        let table = self.builder.ins().load(types::I64, trusted(), self.context, table);
        self.builder.ins().load(types::I64, trusted(), table, function.offset())
    }

    /// The address of a cell of the region's page, which is known when the code gets its place.
    fn cell(&mut self, key: &Key) -> clif::Value {
        let distance = key.distance_from(&self.region.blocks[0].key);
        let name = clif::UserExternalName { namespace: 0, index: distance as u32 };
        let name = self.builder.func.declare_imported_user_function(name);
        let symbol = clif::GlobalValueData::Symbol {
            name: clif::ExternalName::user(name),
            offset: 0.into(),
            colocated: false,
            tls: false,
        };
        let symbol = self.builder.func.create_global_value(symbol);
        self.builder.ins().symbol_value(types::I64, symbol)
    }

    fn call_helper(&mut self, function: Function, [a, b, c]: [clif::Value; 3]) -> clif::Value {
        let target = self.function(function);
        let call = self.builder.ins().call_indirect(self.signatures.helper, target, &[self.context, a, b, c]);
        self.builder.inst_results(call)[0]
    }

    fn helper(&mut self, place: usize, helper: crate::ir::HelperId, arguments: [Value; 3]) -> clif::Value {
        let function = Function::Helper(helper);
        let helper = &G::HELPERS[usize::from(helper.0)];
        let zero = self.constant(0);
        let mut values = [zero; 3];
        for (value, argument) in values.iter_mut().zip(arguments).take(helper.arguments) {
            *value = self.value(argument);
        }
        let effects = helper.effects;
        if effects.reads_registers || effects.writes_registers {
            self.store_written_registers();
        }
        if effects.float_flags {
            self.call_helper(Function::CollectFloatFlags, [zero; 3]);
        }
        let result = self.call_helper(function, values);
        if effects.writes_registers {
            self.homes.load(&mut self.builder, self.context);
        }
        if effects.can_raise {
            self.check_status(place);
        }
        result
    }
}
