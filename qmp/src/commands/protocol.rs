//! Commands about the protocol itself.

use super::declare::commands;
use super::{Context, all};
use crate::error::Error;
use crate::schema::Empty;
use crate::{COMPATIBLE_VERSION, PACKAGE, enumeration, events, structure};

enumeration! {
    /// What a client and the server may agree on beyond the basic protocol.
    pub(crate) enum Capability {
        /// Commands that overtake others (`exec-oob`).
        "oob" => OutOfBand,
    }
}

structure! {
    /// Arguments of `qmp_capabilities`.
    pub(crate) struct CapabilitiesArguments {
        /// Capabilities to enable, among those of the greeting.
        "enable" => enable: Option<Vec<Capability>>,
    }
}

structure! {
    /// A version number in three parts.
    pub(crate) struct VersionTriple {
        /// Third part.
        "micro" => micro: i64,
        /// Second part.
        "minor" => minor: i64,
        /// First part.
        "major" => major: i64,
    }
}

structure! {
    /// The version of the program.
    pub(crate) struct VersionInfo {
        /// Version of QEMU whose management interface this is.
        "qemu" => qemu: VersionTriple,
        /// Name and version of this program.
        "package" => package: String,
    }
}

impl VersionInfo {
    /// This program's.
    pub(crate) fn own() -> VersionInfo {
        let (major, minor, micro) = COMPATIBLE_VERSION;
        VersionInfo { qemu: VersionTriple { micro, minor, major }, package: PACKAGE.into() }
    }
}

structure! {
    /// A command that can be sent.
    pub(crate) struct CommandInfo {
        /// Its name.
        "name" => name: String,
    }
}

structure! {
    /// An event that can come.
    pub(crate) struct EventInfo {
        /// Its name.
        "name" => name: String,
    }
}

commands! {
    /// Ends the negotiation that every connection begins with. Until then no other command is known; from then on this
    /// one is not.
    "qmp_capabilities" Immediate => capabilities(CapabilitiesArguments) -> Empty,
    /// Returns the version of the program.
    "query-version" Immediate => query_version(Empty) -> VersionInfo,
    /// Returns all commands.
    "query-commands" Immediate => query_commands(Empty) -> Vec<CommandInfo>,
    /// Returns all events.
    "query-events" Immediate => query_events(Empty) -> Vec<EventInfo>,
}

fn capabilities(context: &Context, arguments: CapabilitiesArguments) -> Result<Empty, Error> {
    context.negotiation.complete(&arguments.enable.unwrap_or_default());
    Ok(Empty)
}

fn query_version(_: &Context, _: Empty) -> Result<VersionInfo, Error> {
    Ok(VersionInfo::own())
}

fn query_commands(_: &Context, _: Empty) -> Result<Vec<CommandInfo>, Error> {
    Ok(all().map(|command| CommandInfo { name: command.name.into() }).collect())
}

fn query_events(_: &Context, _: Empty) -> Result<Vec<EventInfo>, Error> {
    Ok(events::DECLARATIONS.iter().map(|event| EventInfo { name: event.name.into() }).collect())
}
