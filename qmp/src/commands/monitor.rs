//! The way from QMP to the human monitor.

use super::declare::commands;
use super::{Context, check_cpu_index};
use crate::error::Error;
use crate::hmp::Monitor;
use crate::structure;

structure! {
    /// Arguments of `human-monitor-command`.
    pub(crate) struct HumanMonitorArguments {
        /// A line as a person would type it.
        "command-line" => line: String,
        /// Number of the processor that the line means where it names none; the first one by default.
        "cpu-index" => cpu: Option<i64>,
    }
}

commands! {
    /// Carries out a line of the human monitor and returns what it prints, errors included. Each call begins afresh: it
    /// remembers nothing of those before. What is printed may change at any time; programs should use other commands.
    "human-monitor-command" Blocking => human_monitor_command(HumanMonitorArguments) -> String,
}

fn human_monitor_command(context: &Context, arguments: HumanMonitorArguments) -> Result<String, Error> {
    let cpu = arguments.cpu.map(|index| check_cpu_index(&context.vm, "cpu-index", index)).transpose()?;
    let mut monitor = Monitor::new(context.vm.clone());
    if let Some(cpu) = cpu {
        monitor.select_cpu(cpu);
    }
    Ok(monitor.execute(&arguments.line).replace('\n', "\r\n"))
}
