//! The commands of the monitor.

use std::sync::Arc;

use hw::vm::{Cause, RunState};

use super::arguments::Arguments;
use super::{Entry, Failure, Monitor, dump, registers};
use crate::commands::{check_cpu_index, inject_nmi_everywhere, save_physical, save_virtual, statistics};
use crate::{COMPATIBLE_VERSION, PACKAGE};

/// All commands but `info`'s.
const COMMANDS: &[Entry] = &[
    Entry { names: "help|?", parameters: "[command]", help: "show what commands there are", run: help },
    Entry { names: "info", parameters: "[subcommand]", help: "show various information about the system", run: info },
    Entry { names: "cont|c", parameters: "", help: "continue the machine", run: cont },
    Entry { names: "stop|s", parameters: "", help: "stop the machine", run: stop },
    Entry { names: "system_reset", parameters: "", help: "reset the machine", run: system_reset },
    Entry {
        names: "system_powerdown",
        parameters: "",
        help: "ask the guest to switch off, as by the power button",
        run: system_powerdown,
    },
    Entry { names: "system_wakeup", parameters: "", help: "wake a guest that sleeps", run: system_wakeup },
    Entry { names: "quit|q", parameters: "", help: "end the program", run: quit },
    Entry { names: "cpu", parameters: "index", help: "choose the processor that commands mean", run: cpu },
    Entry { names: "nmi", parameters: "", help: "deliver a non-maskable interrupt to all processors", run: nmi },
    Entry { names: "x", parameters: "/fmt addr", help: "show memory at a virtual address", run: examine_virtual },
    Entry { names: "xp", parameters: "/fmt addr", help: "show memory at a physical address", run: examine_physical },
    Entry {
        names: "print|p",
        parameters: "/fmt expr",
        help: "show the value of an expression ($reg: a register)",
        run: print,
    },
    Entry {
        names: "memsave",
        parameters: "addr size file",
        help: "write memory at a virtual address to a file",
        run: memsave,
    },
    Entry {
        names: "pmemsave",
        parameters: "addr size file",
        help: "write memory at a physical address to a file",
        run: pmemsave,
    },
];

/// The subcommands of `info`.
const INFO: &[Entry] = &[
    Entry { names: "cpus", parameters: "", help: "show the processors", run: info_cpus },
    Entry { names: "jit", parameters: "", help: "show what the JIT did", run: info_jit },
    Entry { names: "kvm", parameters: "", help: "show whether KVM runs the machine", run: info_kvm },
    Entry { names: "name", parameters: "", help: "show the name of the machine", run: info_name },
    Entry {
        names: "registers",
        parameters: "[-a]",
        help: "show the registers of the processor (-a: of all processors)",
        run: info_registers,
    },
    Entry { names: "status", parameters: "", help: "show the run state of the machine", run: info_status },
    Entry { names: "uuid", parameters: "", help: "show the UUID of the machine", run: info_uuid },
    Entry { names: "version", parameters: "", help: "show the version of the program", run: info_version },
];

/// The command called `name`.
pub(super) fn find(name: &str) -> Option<&'static Entry> {
    COMMANDS.iter().find(|entry| entry.is_called(name))
}

fn help(_: &mut Monitor, arguments: &mut Arguments<'_>) -> Result<String, Failure> {
    match (arguments.word(), arguments.word()) {
        (None, _) => Ok(COMMANDS.iter().map(|entry| entry.help_line("")).collect()),
        (Some("info"), None) => Ok(info_help()),
        (Some("info"), Some(name)) => match INFO.iter().find(|entry| entry.is_called(name)) {
            Some(entry) => Ok(entry.help_line("info ")),
            None => Err(unknown(&format!("info {name}"))),
        },
        (Some(name), _) => find(name).map(|entry| entry.help_line("")).ok_or_else(|| unknown(name)),
    }
}

fn info_help() -> String {
    INFO.iter().map(|entry| entry.help_line("info ")).collect()
}

fn unknown(name: &str) -> Failure {
    Failure::Printed(format!("unknown command: '{name}'\n"))
}

fn info(monitor: &mut Monitor, arguments: &mut Arguments<'_>) -> Result<String, Failure> {
    let Some(name) = arguments.word() else { return Ok(info_help()) };
    match INFO.iter().find(|entry| entry.is_called(name)) {
        Some(entry) => (entry.run)(monitor, arguments),
        None => Err(unknown(&format!("info {name}"))),
    }
}

fn cont(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    monitor.vm.cont()?;
    Ok(String::new())
}

fn stop(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    monitor.vm.stop()?;
    Ok(String::new())
}

fn system_reset(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    // QEMU gives the command of the human monitor the same cause.
    monitor.vm.reset(Cause::HostQmpSystemReset)?;
    Ok(String::new())
}

fn system_powerdown(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    monitor.vm.powerdown()?;
    Ok(String::new())
}

fn system_wakeup(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    monitor.vm.wake()?;
    Ok(String::new())
}

fn quit(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    match monitor.vm.quit(Cause::HostQmpQuit) {
        Ok(()) | Err(hw::vm::Error::Ended) => Ok(String::new()),
        Err(error) => Err(error.into()),
    }
}

fn cpu(monitor: &mut Monitor, arguments: &mut Arguments<'_>) -> Result<String, Failure> {
    let index = expression(monitor, arguments, "index")?;
    match check_cpu_index(&monitor.vm, "index", index) {
        Ok(cpu) => {
            monitor.select_cpu(cpu);
            Ok(String::new())
        }
        Err(_) => Err(Failure::Printed("invalid CPU index\n".into())),
    }
}

fn nmi(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    inject_nmi_everywhere(&monitor.vm)?;
    Ok(String::new())
}

/// Takes an expression in which registers are those of the current processor.
fn expression(monitor: &Monitor, arguments: &mut Arguments<'_>, what: &str) -> Result<i64, Failure> {
    arguments.expression(what, &|name| {
        let state = monitor.vm.cpu_state(monitor.cpu).map_err(|error| error.to_string())?;
        Ok(registers::find(&state, name))
    })
}

/// Takes format and address, and remembers the format.
fn place(monitor: &mut Monitor, arguments: &mut Arguments<'_>) -> Result<(dump::Format, u64, u64), Failure> {
    let (format, count) = monitor.format.parse(arguments.format().unwrap_or_default())?;
    let address = expression(monitor, arguments, "address")?.cast_unsigned();
    monitor.format = format;
    Ok((format, count, address))
}

fn examine_virtual(monitor: &mut Monitor, arguments: &mut Arguments<'_>) -> Result<String, Failure> {
    let (format, count, address) = place(monitor, arguments)?;
    let (vm, cpu) = (Arc::clone(&monitor.vm), monitor.cpu);
    format.show(address, count, |address, buffer| vm.read_virtual(cpu, address, buffer).is_ok())
}

fn examine_physical(monitor: &mut Monitor, arguments: &mut Arguments<'_>) -> Result<String, Failure> {
    let (format, count, address) = place(monitor, arguments)?;
    format.show(address, count, |address, buffer| {
        monitor.vm.read_physical(address, buffer);
        true
    })
}

fn print(monitor: &mut Monitor, arguments: &mut Arguments<'_>) -> Result<String, Failure> {
    let (format, _) = dump::Format::for_print().parse(arguments.format().unwrap_or_default())?;
    let value = expression(monitor, arguments, "expression")?.cast_unsigned();
    Ok(format.print(value) + "\n")
}

fn memsave(monitor: &mut Monitor, arguments: &mut Arguments<'_>) -> Result<String, Failure> {
    let address = expression(monitor, arguments, "address")?.cast_unsigned();
    let size = expression(monitor, arguments, "size")?;
    let path = arguments.string("file name")?;
    save_virtual(&monitor.vm, monitor.cpu, address, size, &path)?;
    Ok(String::new())
}

fn pmemsave(monitor: &mut Monitor, arguments: &mut Arguments<'_>) -> Result<String, Failure> {
    let address = expression(monitor, arguments, "address")?.cast_unsigned();
    let size = expression(monitor, arguments, "size")?;
    let path = arguments.string("file name")?;
    save_physical(&monitor.vm, address, size, &path)?;
    Ok(String::new())
}

fn info_cpus(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    let line = |cpu: hw::vm::CpuInfo| {
        let current = if cpu.index == monitor.cpu { '*' } else { ' ' };
        format!("{current} CPU #{}: thread_id={}\n", cpu.index, cpu.thread_id)
    };
    Ok(monitor.vm.cpus().into_iter().map(line).collect())
}

fn info_jit(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    Ok(statistics(&monitor.vm)?)
}

fn info_kvm(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    let enabled = monitor.vm.accelerator_name() == "kvm";
    Ok(format!("kvm support: {}\n", if enabled { "enabled" } else { "disabled" }))
}

fn info_name(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    Ok(monitor.vm.name().map(|name| format!("{name}\n")).unwrap_or_default())
}

fn info_registers(monitor: &mut Monitor, arguments: &mut Arguments<'_>) -> Result<String, Failure> {
    let cpus = if arguments.flag('a') { 0..monitor.vm.cpu_count() } else { monitor.cpu..monitor.cpu + 1 };
    let mut text = String::new();
    for cpu in cpus {
        let state = monitor.vm.cpu_state(cpu)?;
        text.push_str(&format!("\nCPU#{cpu}\n{}", registers::dump(&state)));
    }
    Ok(text)
}

fn info_status(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    Ok(match monitor.vm.status() {
        RunState::Running => "VM status: running\n".into(),
        RunState::Paused => "VM status: paused\n".into(),
        other => format!("VM status: paused ({})\n", other.name()),
    })
}

fn info_uuid(monitor: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    Ok(format!("{}\n", monitor.vm.uuid()))
}

fn info_version(_: &mut Monitor, _: &mut Arguments<'_>) -> Result<String, Failure> {
    let (major, minor, micro) = COMPATIBLE_VERSION;
    Ok(format!("{major}.{minor}.{micro} ({PACKAGE})\n"))
}
