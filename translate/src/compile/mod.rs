//! Cranelift: compiles regions of IR blocks to host code, and enters it.
//!
//! Nothing outside this module names Cranelift. Compiled code is a function of one argument, the [`Context`](crate::cpu::Context), under the tail
//! calling convention: it goes on to other regions by tail calls through their cells, and returns when the dispatcher is
//! needed. Slow paths are called under a convention that preserves all registers, so that they cost the fast path nothing.
//!
//! Cranelift runs without optimisation passes (`opt_level` none): they would fold floating-point constants under the wrong
//! rounding mode and lose their exception flags, and cost more than they gain in regions of this size.

mod code;
mod jump;
mod leave;
mod lower;
mod memory;
pub mod perf_map;
mod runtime;
mod slow_path;

use std::sync::Arc;

use cranelift_codegen::Context as CompilerContext;
use cranelift_codegen::FinalizedRelocTarget;
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir as clif;
use cranelift_codegen::isa::{OwnedTargetIsa, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::FunctionBuilderContext;

use crate::baseline::Baseline;
use crate::engine::Region;
use crate::guest::Guest;
pub(crate) use code::{Code, Function, Relocation, SlowPath, Target};
pub use memory::CodeMemory;
pub use runtime::{EntryPoint, Runtime};
pub(crate) use slow_path::{ACCESS_BITS, Access, encode_probe};

/// Why something was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The host's processor is not one that code can be generated for.
    #[error("no code can be generated for this host: {0}")]
    Host(String),
    /// Cranelift refused the function.
    #[error("the code generator refused a function: {0}")]
    Refused(String),
    /// The memory of this generation is used up.
    #[error("the memory for compiled code is used up")]
    Full,
    /// The host gave no memory for code.
    #[error("the host gives no memory for compiled code: {0}")]
    Memory(#[from] std::io::Error),
}

/// The code generator for this host.
fn host_isa() -> Result<OwnedTargetIsa, CompileError> {
    let host = |error: &dyn std::fmt::Display| CompileError::Host(error.to_string());
    let mut flags = settings::builder();
    for (name, value) in [
        ("opt_level", "none"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        // Tail calls need frame pointers on x86-64.
        ("preserve_frame_pointers", "true"),
        ("unwind_info", "false"),
        ("enable_probestack", "false"),
    ] {
        flags.set(name, value).map_err(|error| host(&error))?;
    }
    let isa = cranelift_native::builder().map_err(|error| host(&error))?;
    isa.finish(settings::Flags::new(flags)).map_err(|error| host(&error))
}

/// Compiles regions, one after the other.
pub struct Compiler<G: Guest> {
    runtime: Arc<Runtime<G>>,
    context: CompilerContext,
    builder_context: FunctionBuilderContext,
}

impl<G: Guest> Compiler<G> {
    /// A compiler whose code uses `runtime`.
    pub fn new(runtime: Arc<Runtime<G>>) -> Compiler<G> {
        Compiler { runtime, context: CompilerContext::new(), builder_context: FunctionBuilderContext::new() }
    }

    /// Compiles a region.
    pub(crate) fn compile(&mut self, region: &Region) -> Result<Code, CompileError> {
        self.context.clear();
        lower::lower::<G>(&self.runtime, region, &mut self.context.func, &mut self.builder_context);
        let code = finish(&*self.runtime.isa, &mut self.context)?;
        Ok(if self.runtime.baseline.is_some() { code.behind(Baseline::REGION_START) } else { code })
    }
}

/// Compiles the function of `context`.
fn finish(isa: &dyn TargetIsa, context: &mut CompilerContext) -> Result<Code, CompileError> {
    let refused = |function: &clif::Function, error: &dyn std::fmt::Display| {
        CompileError::Refused(format!("{}: {error}", function.display_spec()))
    };
    let compiled = match context.compile(isa, &mut ControlPlane::default()) {
        Ok(compiled) => (compiled.code_buffer().to_vec(), compiled.buffer.relocs().to_vec()),
        Err(error) => {
            let error = format!("{:?}", error.inner);
            return Err(refused(&context.func, &error));
        }
    };
    let (bytes, relocations) = compiled;
    let relocations = relocations.iter().map(|relocation| {
        let name = match &relocation.target {
            FinalizedRelocTarget::ExternalName(clif::ExternalName::User(name)) if relocation.kind == Reloc::Abs8 => {
                name
            }
            _ => return Err(refused(&context.func, &format!("{relocation:?} is not expected"))),
        };
        let name = &context.func.params.user_named_funcs()[*name];
        Ok(Relocation { offset: relocation.offset, target: lower::target(name) })
    });
    let relocations = relocations.collect::<Result<_, _>>()?;
    Ok(Code { bytes, relocations })
}
