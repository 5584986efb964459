//! Commands about the machine as a whole and its life.

use hw::machine::machines;
use hw::vm::{Cause, RunState as State, Vm};

use super::Context;
use super::declare::commands;
use crate::error::Error;
use crate::schema::Empty;
use crate::{enumeration, structure};

enumeration! {
    /// What a machine is doing.
    pub(crate) enum RunState {
        /// A debugger stopped it.
        "debug" => Debug,
        /// It waits for an incoming migration.
        "inmigrate" => Inmigrate,
        /// The accelerator could not go on; only a reset helps.
        "internal-error" => InternalError,
        /// A disk failed and is configured to stop the machine then.
        "io-error" => IoError,
        /// It was stopped by `stop`.
        "paused" => Paused,
        /// It is stopped after a successful migration to elsewhere.
        "postmigrate" => Postmigrate,
        /// It was started with `-S` and did not run yet.
        "prelaunch" => Prelaunch,
        /// It is stopped to finish a migration.
        "finish-migrate" => FinishMigrate,
        /// It is stopped while a saved state is loaded.
        "restore-vm" => RestoreVm,
        /// It runs.
        "running" => Running,
        /// It is stopped while its state is saved.
        "save-vm" => SaveVm,
        /// The guest switched off, and `-no-shutdown` is in use; only a reset helps.
        "shutdown" => Shutdown,
        /// The guest sleeps.
        "suspended" => Suspended,
        /// A watchdog stopped it.
        "watchdog" => Watchdog,
        /// The guest reported that it crashed.
        "guest-panicked" => GuestPanicked,
        /// It runs beside a copy of itself.
        "colo" => Colo,
        /// It was started with `-preconfig` and is not built yet.
        "preconfig" => Preconfig,
    }
}

impl From<State> for RunState {
    fn from(state: State) -> RunState {
        match state {
            State::Debug => RunState::Debug,
            State::Inmigrate => RunState::Inmigrate,
            State::InternalError => RunState::InternalError,
            State::IoError => RunState::IoError,
            State::Paused => RunState::Paused,
            State::Postmigrate => RunState::Postmigrate,
            State::Prelaunch => RunState::Prelaunch,
            State::FinishMigrate => RunState::FinishMigrate,
            State::RestoreVm => RunState::RestoreVm,
            State::Running => RunState::Running,
            State::SaveVm => RunState::SaveVm,
            State::Shutdown => RunState::Shutdown,
            State::Suspended => RunState::Suspended,
            State::Watchdog => RunState::Watchdog,
            State::GuestPanicked => RunState::GuestPanicked,
            State::Colo => RunState::Colo,
            State::Preconfig => RunState::Preconfig,
        }
    }
}

structure! {
    /// The run state of the machine.
    pub(crate) struct StatusInfo {
        /// What it is doing.
        "status" => status: RunState,
        /// It is in single-step mode.
        "singlestep" => single_step: bool,
        /// It runs.
        "running" => running: bool,
        /// The accelerator that runs it, where that can change.
        "x-accelerator" => accelerator: Option<String>,
    }
}

structure! {
    /// Text for people.
    pub(crate) struct HumanReadableText {
        /// The text.
        "human-readable-text" => text: String,
    }
}

structure! {
    /// Arguments of `x-accelerator-set`.
    pub(crate) struct AcceleratorArguments {
        /// Its name, such as `kvm` or `jit`.
        "name" => name: String,
    }
}

structure! {
    /// The name of the machine.
    pub(crate) struct NameInfo {
        /// Absent if the user gave none.
        "name" => name: Option<String>,
    }
}

structure! {
    /// The UUID of the machine.
    pub(crate) struct UuidInfo {
        /// In groups of hexadecimal digits; all zero if the user gave none.
        "UUID" => uuid: String,
    }
}

structure! {
    /// Whether KVM runs the machine.
    pub(crate) struct KvmInfo {
        /// KVM runs it.
        "enabled" => enabled: bool,
        /// This program could run such a machine by KVM, given a host that has it.
        "present" => present: bool,
    }
}

structure! {
    /// The architecture of the machine.
    pub(crate) struct TargetInfo {
        /// Name of the architecture.
        "arch" => architecture: String,
    }
}

structure! {
    /// A kind of machine that can be built for this architecture.
    pub(crate) struct MachineInfo {
        /// Processors can be added while it runs.
        "hotpluggable-cpus" => hotpluggable_cpus: bool,
        /// The name that `-machine` takes.
        "name" => name: String,
        /// Memory can be distributed over NUMA nodes by size alone.
        "numa-mem-supported" => numa_memory_supported: bool,
        /// Type of its processors where the user names none.
        "default-cpu-type" => default_cpu_type: Option<String>,
        /// Most processors it can have.
        "cpu-max" => cpu_max: i64,
        /// It will go away.
        "deprecated" => deprecated: bool,
        /// It is taken where the user names none.
        "is-default" => is_default: Option<bool>,
        /// Another name for it.
        "alias" => alias: Option<String>,
    }
}

commands! {
    /// Ends the program. SHUTDOWN comes before the answer, which may get lost.
    "quit" Blocking => quit(Empty) -> Empty,
    /// Stops the machine; nothing happens if it is stopped. STOP comes before the answer.
    "stop" Blocking => stop(Empty) -> Empty,
    /// Starts or continues the machine; nothing happens if it runs. RESUME comes before the answer. Fails in the run
    /// states that only a reset ends, `internal-error` and `shutdown`.
    "cont" Blocking => cont(Empty) -> Empty,
    /// Resets the machine. RESET comes before the answer.
    "system_reset" Blocking => system_reset(Empty) -> Empty,
    /// Asks the guest to switch off, as by its power button; whether it does is its own affair. POWERDOWN comes before
    /// the answer.
    "system_powerdown" Blocking => system_powerdown(Empty) -> Empty,
    /// Wakes a guest that sleeps (ACPI S3). WAKEUP comes before the answer.
    "system_wakeup" Blocking => system_wakeup(Empty) -> Empty,
    /// Moves the machine to another accelerator between two instructions, with everything that it is, and lets it go on there.
    /// X_ACCELERATOR_CHANGED comes before the answer. Nothing happens if that accelerator runs it already. An error leaves
    /// the machine as it was. The machine must have been started with `-machine switchable=on`.
    "x-accelerator-set" Blocking => accelerator_set(AcceleratorArguments) -> Empty,
    /// Returns what the accelerator counted, in sentences that may change; an error where it counts nothing.
    "x-query-jit" Blocking => query_statistics(Empty) -> HumanReadableText,
    /// Returns the run state.
    "query-status" Immediate => query_status(Empty) -> StatusInfo,
    /// Returns the name that the user gave the machine.
    "query-name" Immediate => query_name(Empty) -> NameInfo,
    /// Returns the UUID of the machine.
    "query-uuid" Immediate => query_uuid(Empty) -> UuidInfo,
    /// Returns whether KVM runs the machine.
    "query-kvm" Immediate => query_kvm(Empty) -> KvmInfo,
    /// Returns the architecture of the machine.
    "query-target" Immediate => query_target(Empty) -> TargetInfo,
    /// Returns the kinds of machines that can be built for this architecture.
    "query-machines" Immediate => query_machines(Empty) -> Vec<MachineInfo>,
}

fn quit(context: &Context, _: Empty) -> Result<Empty, Error> {
    match context.vm.quit(Cause::HostQmpQuit) {
        // Somebody else was faster.
        Ok(()) | Err(hw::vm::Error::Ended) => Ok(Empty),
        Err(error) => Err(error.into()),
    }
}

fn stop(context: &Context, _: Empty) -> Result<Empty, Error> {
    context.vm.stop()?;
    Ok(Empty)
}

fn cont(context: &Context, _: Empty) -> Result<Empty, Error> {
    context.vm.cont()?;
    Ok(Empty)
}

fn system_reset(context: &Context, _: Empty) -> Result<Empty, Error> {
    context.vm.reset(Cause::HostQmpSystemReset)?;
    Ok(Empty)
}

fn system_powerdown(context: &Context, _: Empty) -> Result<Empty, Error> {
    context.vm.powerdown()?;
    Ok(Empty)
}

fn system_wakeup(context: &Context, _: Empty) -> Result<Empty, Error> {
    context.vm.wake()?;
    Ok(Empty)
}

fn accelerator_set(context: &Context, arguments: AcceleratorArguments) -> Result<Empty, Error> {
    let name = if arguments.name == "tcg" { "jit" } else { &arguments.name };
    context.vm.switch_accelerator(name)?;
    Ok(Empty)
}

fn query_status(context: &Context, _: Empty) -> Result<StatusInfo, Error> {
    let status = context.vm.status();
    let accelerator = context.vm.can_switch_accelerator().then(|| context.vm.accelerator_name().to_owned());
    Ok(StatusInfo { status: status.into(), single_step: false, running: status == State::Running, accelerator })
}

fn query_statistics(context: &Context, _: Empty) -> Result<HumanReadableText, Error> {
    Ok(HumanReadableText { text: statistics(&context.vm)? })
}

/// What the accelerator counted.
pub(crate) fn statistics(vm: &Vm) -> Result<String, Error> {
    vm.statistics()?.ok_or_else(|| Error::generic("the accelerator that runs this machine counts nothing; jit does"))
}

fn query_name(context: &Context, _: Empty) -> Result<NameInfo, Error> {
    Ok(NameInfo { name: context.vm.name().map(str::to_owned) })
}

fn query_uuid(context: &Context, _: Empty) -> Result<UuidInfo, Error> {
    Ok(UuidInfo { uuid: context.vm.uuid().to_string() })
}

fn query_kvm(context: &Context, _: Empty) -> Result<KvmInfo, Error> {
    // KVM runs guests of the host's own architecture only.
    let present = std::env::consts::OS == "linux" && std::env::consts::ARCH == context.vm.architecture().name();
    Ok(KvmInfo { enabled: context.vm.accelerator_name() == "kvm", present })
}

fn query_target(context: &Context, _: Empty) -> Result<TargetInfo, Error> {
    Ok(TargetInfo { architecture: context.vm.architecture().name().into() })
}

fn query_machines(context: &Context, _: Empty) -> Result<Vec<MachineInfo>, Error> {
    let info = |machine: &hw::machine::MachineType| MachineInfo {
        hotpluggable_cpus: false,
        name: machine.name.into(),
        numa_memory_supported: false,
        default_cpu_type: Some(machine.default_cpu_type.into()),
        cpu_max: machine.cpu_max.into(),
        deprecated: false,
        is_default: machine.is_default.then_some(true),
        alias: machine.alias.map(str::to_owned),
    };
    Ok(machines(context.vm.architecture()).map(info).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_states_have_the_machine_s_names() {
        for state in State::ALL {
            assert_eq!(RunState::from(state).name(), state.name());
        }
    }
}
