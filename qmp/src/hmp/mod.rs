//! The human monitor: commands for people, as lines of text.
//!
//! `human-monitor-command` carries out single lines; `-monitor` gives a person a prompt. What is printed has QEMU's
//! form, since people and scripts read it.

mod arguments;
mod commands;
mod console;
mod dump;
mod expression;
mod registers;

use std::sync::Arc;

use hw::vm::Vm;

use arguments::Arguments;
pub(crate) use console::serve;

use crate::error::Error;

/// A person's session with the monitor.
pub struct Monitor {
    vm: Arc<Vm>,
    cpu: u32,
    format: dump::Format,
}

/// Why a line did nothing, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// The line is not what the command takes.
    Usage(String),
    /// The command failed.
    Command(Error),
    /// What was printed says it all.
    Printed(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Command(error)
    }
}

impl From<hw::vm::Error> for Failure {
    fn from(error: hw::vm::Error) -> Failure {
        Failure::Command(error.into())
    }
}

/// A command of the monitor.
struct Entry {
    /// Its names, separated by `|`.
    names: &'static str,
    /// What it takes, for people.
    parameters: &'static str,
    /// What it does.
    help: &'static str,
    run: fn(&mut Monitor, &mut Arguments<'_>) -> Result<String, Failure>,
}

impl Entry {
    fn is_called(&self, name: &str) -> bool {
        self.names.split('|').any(|own| own == name)
    }

    fn help_line(&self, prefix: &str) -> String {
        let parameters = if self.parameters.is_empty() { String::new() } else { format!(" {}", self.parameters) };
        format!("{prefix}{}{parameters} -- {}\n", self.names, self.help)
    }
}

impl Monitor {
    /// A session in which commands mean the first processor until another is chosen.
    pub fn new(vm: Arc<Vm>) -> Monitor {
        Monitor { vm, cpu: 0, format: dump::Format::default() }
    }

    /// Makes commands mean processor `cpu`, which must exist.
    pub(crate) fn select_cpu(&mut self, cpu: u32) {
        self.cpu = cpu;
    }

    /// Carries a line out and returns what there is to print, errors included; lines end in `\n`.
    pub fn execute(&mut self, line: &str) -> String {
        let mut arguments = Arguments::new(line);
        // `x/4xw` is the command `x` with its format.
        let Some(name) = arguments.name() else { return String::new() };
        let Some(entry) = commands::find(name) else { return format!("unknown command: '{name}'\n") };
        let result = (entry.run)(self, &mut arguments);
        let result = result.and_then(|text| match arguments.rest() {
            "" => Ok(text),
            rest => Err(Failure::Usage(format!("extraneous characters at the end of line: '{rest}'"))),
        });
        match result {
            Ok(text) | Err(Failure::Printed(text)) => text,
            Err(Failure::Usage(problem)) => {
                format!("{name}: {problem}\nTry \"help {name}\" for more information\n")
            }
            Err(Failure::Command(error)) => format!("Error: {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests;
