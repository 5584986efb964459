//! The commands of QMP.
//!
//! A group of commands is one file: the types that they take and return, a table that declares each with its
//! documentation, and the functions behind them. Dispatch, argument checks and `query-commands` come from the tables.

mod block;
mod cpu;
mod declare;
mod machine;
mod memory;
mod monitor;
mod not_built;
mod protocol;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use hw::vm::Vm;
use serde_json::{Map, Value};

pub(crate) use cpu::{check_cpu_index, inject_nmi_everywhere};
pub(crate) use machine::statistics;
pub(crate) use memory::{save_physical, save_virtual};
pub use not_built::NOT_BUILT;
pub(crate) use protocol::{Capability, VersionInfo};

use crate::error::Error;
use crate::schema::Type;
use crate::session::Negotiation;

/// What a command may use.
pub struct Context {
    /// The machine.
    pub vm: Arc<Vm>,
    /// What was agreed on with the client that sent the command.
    pub negotiation: Arc<Negotiation>,
}

/// Where a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// On the session's task: it reads published state only and never waits.
    Immediate,
    /// On a thread of its own: it may wait for vCPUs, devices or files.
    Blocking,
}

/// The function behind a command, between JSON and JSON.
pub(crate) type Handler = fn(&Context, Map<String, Value>) -> Result<Value, Error>;

/// A command as declared.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub documentation: &'static str,
    /// What it takes: always a [`Type::Structure`].
    pub arguments: &'static Type,
    /// What it returns.
    pub returns: &'static Type,
    /// It may be sent with `exec-oob`, to overtake others. Only for commands whose execution is immediate.
    pub allow_out_of_band: bool,
    /// Where it runs.
    pub execution: Execution,
    pub(crate) handler: Handler,
}

/// All commands, in the order of the manual.
pub fn all() -> impl Iterator<Item = &'static Command> {
    [protocol::COMMANDS, machine::COMMANDS, cpu::COMMANDS, memory::COMMANDS, monitor::COMMANDS]
        .into_iter()
        .chain(block::GROUPS)
        .flatten()
}

/// The command called `name`.
pub fn find(name: &str) -> Option<&'static Command> {
    static BY_NAME: LazyLock<BTreeMap<&'static str, &'static Command>> =
        LazyLock::new(|| all().map(|command| (command.name, command)).collect());
    BY_NAME.get(name).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::schema::Structure;

    /// Names and arguments of the commands of QEMU 2.2.50.
    const TABLE: &str = include_str!("../../tests/data/commands.tsv");

    fn arguments(command: &Command) -> &'static Structure {
        match command.arguments {
            Type::Structure(structure) => structure,
            other => panic!("{} takes {other:?}", command.name),
        }
    }

    #[test]
    fn every_command_of_the_table_is_built_or_listed_as_not_built() {
        let table: BTreeSet<&str> = TABLE.lines().skip(1).filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(table.len(), 115);
        let not_built: BTreeSet<&str> = NOT_BUILT.iter().copied().collect();
        assert_eq!(not_built.len(), NOT_BUILT.len(), "a name is listed twice");
        for name in &table {
            assert!(find(name).is_some() != not_built.contains(name), "{name} must be either built or listed");
        }
        assert!(not_built.is_subset(&table));
        assert_eq!(all().count(), all().map(|command| command.name).collect::<BTreeSet<_>>().len());
    }

    #[test]
    fn arguments_are_those_of_the_table() {
        for line in TABLE.lines().skip(1) {
            let (name, wanted) = line.split_once('\t').unwrap();
            let Some(command) = find(name) else { continue };
            let members = arguments(command).members;
            for wanted in wanted.split(',').filter(|wanted| !wanted.is_empty()) {
                let (wanted, kind) = wanted.split_once(':').unwrap();
                let member = members.iter().find(|member| member.name == wanted || member.alias == Some(wanted));
                let member = member.unwrap_or_else(|| panic!("{name} lacks {wanted}"));
                // Today's clients give the same without an object around it.
                if name != "blockdev-add" {
                    assert_eq!(member.optional, kind.ends_with('?'), "{name} {wanted}");
                }
                let fits = match kind.trim_end_matches('?') {
                    "s" | "F" | "B" => matches!(member.kind, Type::String | Type::Enumeration(_)),
                    "i" | "l" | "o" | "M" => matches!(member.kind, Type::Integer),
                    "b" => matches!(member.kind, Type::Boolean),
                    "q" => matches!(member.kind, Type::Any | Type::Array(_)),
                    other => panic!("type {other} of {name} {wanted}"),
                };
                assert!(fits, "{name} {wanted}: {kind} is declared as {:?}", member.kind);
            }
            for member in members {
                let known = wanted.split([':', ',']).any(|word| word == member.name || Some(word) == member.alias);
                assert!(known || member.optional, "{name}: {} is mandatory and not in the table", member.name);
            }
        }
    }

    #[test]
    fn everything_is_documented() {
        for command in all() {
            assert!(!command.documentation.trim().is_empty(), "{}", command.name);
            for member in arguments(command).members {
                assert!(!member.documentation.trim().is_empty(), "{} {}", command.name, member.name);
            }
        }
    }
}
