//! The code that every region relies on: the way in, the way out, and the slow paths' thunks.

use std::marker::PhantomData;

use cranelift_codegen::Context as CompilerContext;
use cranelift_codegen::ir::{self as clif, AbiParam, InstBuilder, Signature, UserFuncName, types};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use super::{Code, CodeMemory, CompileError, Function, SlowPath, finish, host_isa, jump, leave, slow_path};
use crate::baseline::Baseline;
use crate::cpu::Cpu;
use crate::float;
use crate::guest::Guest;
use crate::interpret::Ended;

/// Bytes for all code of a runtime.
const SIZE: usize = 64 << 10;

/// The address of compiled code that can be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoint(pub *const u8);

/// Code and addresses that compiled regions of one guest architecture use.
pub struct Runtime<G: Guest> {
    pub(super) isa: OwnedTargetIsa,
    /// In the order of [`Function`].
    functions: Box<[*const u8]>,
    /// The compiler of single blocks, where the host has one.
    pub(crate) baseline: Option<Baseline>,
    /// The host multiplies and adds in one instruction.
    pub(super) has_multiply_add: bool,
    enter: extern "C" fn(*mut Cpu<G>, *const u8),
    return_to_dispatcher: EntryPoint,
    _memory: CodeMemory,
    _guest: PhantomData<fn() -> G>,
}

// SAFETY: the addresses point into `_memory` and the memory of `baseline`, which are never written to after the constructor, and
// to functions.
unsafe impl<G: Guest> Send for Runtime<G> {}
// SAFETY: as above.
unsafe impl<G: Guest> Sync for Runtime<G> {}

impl<G: Guest> Runtime<G> {
    /// Generates the code for this host.
    pub fn new() -> Result<Runtime<G>, CompileError> {
        let isa = host_isa()?;
        let memory = CodeMemory::new(SIZE)?;
        let mut maker = Maker { isa: &isa, memory: &memory, context: CompilerContext::new() };
        let baseline = Baseline::new();
        // Blocks of the baseline compiler preserve no registers, so they bring the code that does.
        let enter = match &baseline {
            Some(baseline) => baseline.enter(),
            None => maker.enter()?,
        };
        // SAFETY: the code was generated with this signature under the platform's C convention.
        let enter = unsafe { std::mem::transmute::<*const u8, extern "C" fn(*mut Cpu<G>, *const u8)>(enter) };
        let return_to_dispatcher = EntryPoint(maker.return_to_dispatcher()?);
        let mut functions = vec![std::ptr::null(); Function::COUNT].into_boxed_slice();
        for (path, target, arguments) in [
            (SlowPath::Load, slow_path::load::<G> as *const u8, 3),
            (SlowPath::Store, slow_path::store::<G> as *const u8, 4),
            (SlowPath::LoadVector, slow_path::load_vector::<G> as *const u8, 3),
            (SlowPath::StoreVector, slow_path::store_vector::<G> as *const u8, 3),
            (SlowPath::ProbeWrite, slow_path::probe_write::<G> as *const u8, 3),
            (SlowPath::ReadModifyWrite, slow_path::read_modify_write::<G> as *const u8, 4),
            (SlowPath::ExchangeIf, slow_path::exchange_if::<G> as *const u8, 4),
            (SlowPath::Reserve, slow_path::reserve::<G> as *const u8, 3),
            (SlowPath::StoreIfReserved, slow_path::store_if_reserved::<G> as *const u8, 4),
            (SlowPath::NanOfMultiplyAdd, slow_path::nan_of_multiply_add::<G> as *const u8, 4),
        ] {
            functions[Function::Slow(path).index()] = maker.thunk(target, arguments)?;
        }
        for (function, indirect) in [(Function::GoDirect, false), (Function::GoIndirect, true)] {
            let by_cell = baseline.is_none();
            functions[function.index()] = maker.make(jump::signature(), |builder, parameters| {
                jump::build(builder, parameters, indirect, by_cell);
            })?;
        }
        let next = if baseline.is_none() { leave::next::<G, true> } else { leave::next::<G, false> };
        let convention = isa.default_call_conv();
        functions[Function::GoAnew.index()] = maker.make(region_signature(), |builder, parameters| {
            leave::build(builder, parameters[0], next as *const u8, convention);
        })?;
        if let Some(baseline) = &baseline {
            for (function, stub) in baseline.stubs() {
                functions[function.index()] = *stub;
            }
        }
        for (function, target) in [
            (Function::CollectFloatFlags, slow_path::collect_float_flags::<G> as *const u8),
            (Function::MultiplyAdd32, slow_path::multiply_add::<G, 32> as *const u8),
            (Function::MultiplyAdd64, slow_path::multiply_add::<G, 64> as *const u8),
        ] {
            functions[function.index()] = target;
        }
        let helpers = G::HELPERS.iter().map(|helper| helper.function as *const u8);
        let functions = functions.into_iter().chain(helpers).collect();
        let has_multiply_add =
            isa.isa_flags().iter().any(|flag| flag.name == "has_fma" && flag.as_bool() == Some(true))
                || cfg!(target_arch = "aarch64");
        Ok(Runtime {
            functions,
            baseline,
            has_multiply_add,
            enter,
            return_to_dispatcher,
            isa,
            _memory: memory,
            _guest: PhantomData,
        })
    }

    /// What compiled code depends on of the host.
    pub(crate) fn host(&self) -> String {
        let flags: Vec<String> = self.isa.isa_flags().iter().map(ToString::to_string).collect();
        let baseline = self.baseline.as_ref().map(Baseline::features);
        format!("{} {} {flags:?} {baseline:?}", self.isa.triple(), self.isa.flags())
    }

    /// The table of functions for [`Context::functions`](crate::cpu::Context::functions).
    pub(crate) fn functions(&self) -> *const *const u8 {
        self.functions.as_ptr()
    }

    /// Code that returns at once, for cells without any.
    pub fn return_to_dispatcher(&self) -> EntryPoint {
        self.return_to_dispatcher
    }

    /// Runs compiled code until it needs the dispatcher. `entry` comes from a cell whose generation the caller holds.
    pub fn call(&self, cpu: &mut Cpu<G>, entry: EntryPoint) -> Ended {
        cpu.context.leave = 0;
        cpu.rounding_in_use = cpu.context.float_rounding;
        let host = float::enter_guest(cpu.context.float_rounding);
        (self.enter)(&raw mut *cpu, entry.0);
        cpu.context.float_flags |= float::leave_guest(host).0;
        if cpu.context.status != 0 {
            Ended::Stopped
        } else if cpu.context.leave != 0 {
            Ended::Leave
        } else {
            Ended::Next
        }
    }
}

/// Signature of compiled regions.
pub(super) fn region_signature() -> Signature {
    let mut signature = Signature::new(CallConv::Tail);
    signature.params.push(AbiParam::new(types::I64));
    signature
}

/// Signature of a function of 64-bit integers without a result.
pub(super) fn plain_signature(convention: CallConv, arguments: usize) -> Signature {
    let mut signature = Signature::new(convention);
    signature.params.extend(std::iter::repeat_n(AbiParam::new(types::I64), arguments));
    signature
}

struct Maker<'a> {
    isa: &'a OwnedTargetIsa,
    memory: &'a CodeMemory,
    context: CompilerContext,
}

impl Maker<'_> {
    fn make(
        &mut self,
        signature: Signature,
        body: impl FnOnce(&mut FunctionBuilder, &[cranelift_codegen::ir::Value]),
    ) -> Result<*const u8, CompileError> {
        self.context.clear();
        self.context.func = clif::Function::with_name_signature(UserFuncName::default(), signature);
        let mut builder_context = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut self.context.func, &mut builder_context);
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        builder.switch_to_block(entry);
        builder.seal_block(entry);
        let parameters = builder.block_params(entry).to_vec();
        body(&mut builder, &parameters);
        builder.ins().return_(&[]);
        builder.finalize(self.isa.frontend_config());
        // Such code refers to nothing.
        let Code { bytes, .. } = finish(&**self.isa, &mut self.context)?;
        self.memory.add(&bytes).ok_or(CompileError::Full)
    }

    /// `enter(cpu, code)`: calls code under the tail convention.
    fn enter(&mut self) -> Result<*const u8, CompileError> {
        self.make(plain_signature(self.isa.default_call_conv(), 2), |builder, parameters| {
            let signature = builder.import_signature(region_signature());
            builder.ins().call_indirect(signature, parameters[1], &parameters[..1]);
        })
    }

    fn return_to_dispatcher(&mut self) -> Result<*const u8, CompileError> {
        self.make(region_signature(), |_, _| {})
    }

    /// A function that preserves all registers and calls `target`, which is one of the platform's C convention.
    fn thunk(&mut self, target: *const u8, arguments: usize) -> Result<*const u8, CompileError> {
        let convention = self.isa.default_call_conv();
        self.make(plain_signature(CallConv::PreserveAll, arguments), |builder, parameters| {
            let signature = builder.import_signature(plain_signature(convention, arguments));
            let target = builder.ins().iconst(types::I64, target as i64);
            builder.ins().call_indirect(signature, target, parameters);
        })
    }
}
