//! Commands about processors.

use accel::Architecture;
use hw::vm::Vm;

use super::Context;
use super::declare::commands;
use crate::error::Error;
use crate::schema::Empty;
use crate::structure;

structure! {
    /// Arguments of `cpu`.
    pub(crate) struct CpuArguments {
        /// Number of the processor.
        "index" => index: i64,
    }
}

structure! {
    /// A processor, with its program counter.
    pub(crate) struct CpuInfo {
        /// Number of the processor.
        "CPU" => index: i64,
        /// Commands of the human monitor mean this one.
        "current" => current: bool,
        /// It waits for an interrupt.
        "halted" => halted: bool,
        /// Address of the next instruction, linear.
        "pc" => program_counter: i64,
        /// The host's id of its thread.
        "thread_id" => thread_id: i64,
    }
}

structure! {
    /// Place of a processor in the machine.
    pub(crate) struct CpuPlace {
        /// Core within its socket.
        "core-id" => core: Option<i64>,
        /// Thread within its core.
        "thread-id" => thread: Option<i64>,
        /// Socket.
        "socket-id" => socket: Option<i64>,
    }
}

structure! {
    /// A processor, as far as it is known without disturbing it.
    pub(crate) struct CpuInfoFast {
        /// The host's id of its thread.
        "thread-id" => thread_id: i64,
        /// Place in the machine.
        "props" => place: CpuPlace,
        /// Path in the object model.
        "qom-path" => path: String,
        /// Number of the processor.
        "cpu-index" => index: i64,
        /// Name of the architecture.
        "target" => target: String,
    }
}

commands! {
    /// Does nothing: it once chose the processor of later commands, and is kept for clients that send it.
    "cpu" Immediate => cpu(CpuArguments) -> Empty,
    /// Returns all processors. Each leaves the guest for a moment to tell its program counter; `query-cpus-fast` does
    /// without.
    "query-cpus" Blocking => query_cpus(Empty) -> Vec<CpuInfo>,
    /// Returns all processors without disturbing them.
    "query-cpus-fast" Immediate => query_cpus_fast(Empty) -> Vec<CpuInfoFast>,
    /// Delivers a non-maskable interrupt to all processors. Fails where the machine has none.
    "inject-nmi" Blocking => inject_nmi(Empty) -> Empty,
}

/// The processor that an argument names.
pub(crate) fn check_cpu_index(vm: &Vm, argument: &str, index: i64) -> Result<u32, Error> {
    let valid = u32::try_from(index).ok().filter(|&index| index < vm.cpu_count());
    valid.ok_or_else(|| Error::wrong_value(argument, "a CPU number"))
}

fn cpu(_: &Context, arguments: CpuArguments) -> Result<Empty, Error> {
    let CpuArguments { index: _ } = arguments;
    Ok(Empty)
}

fn query_cpus(context: &Context, _: Empty) -> Result<Vec<CpuInfo>, Error> {
    let info = |cpu: hw::vm::CpuInfo| {
        Ok(CpuInfo {
            index: cpu.index.into(),
            current: cpu.index == 0,
            halted: cpu.halted,
            program_counter: context.vm.cpu_state(cpu.index)?.program_counter().cast_signed(),
            thread_id: cpu.thread_id.into(),
        })
    };
    context.vm.cpus().into_iter().map(info).collect()
}

fn query_cpus_fast(context: &Context, _: Empty) -> Result<Vec<CpuInfoFast>, Error> {
    let architecture = context.vm.architecture();
    let info = |cpu: hw::vm::CpuInfo| {
        let core = Some(i64::from(cpu.index));
        CpuInfoFast {
            thread_id: cpu.thread_id.into(),
            place: match architecture {
                Architecture::X86_64 => CpuPlace { core, thread: Some(0), socket: Some(0) },
                Architecture::Riscv64 => CpuPlace { core, thread: None, socket: None },
            },
            path: format!("/machine/unattached/device[{}]", cpu.index),
            index: cpu.index.into(),
            target: architecture.name().into(),
        }
    };
    Ok(context.vm.cpus().into_iter().map(info).collect())
}

fn inject_nmi(context: &Context, _: Empty) -> Result<Empty, Error> {
    inject_nmi_everywhere(&context.vm).map(|()| Empty)
}

/// Delivers a non-maskable interrupt to all processors.
pub(crate) fn inject_nmi_everywhere(vm: &Vm) -> Result<(), Error> {
    match vm.inject_nmi() {
        Err(hw::vm::Error::Accelerator(accel::Error::Unsupported { .. })) => {
            Err(Error::generic("machine does not provide NMIs"))
        }
        result => Ok(result?),
    }
}
