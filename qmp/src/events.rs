//! The events of QMP.

use std::time::{SystemTime, UNIX_EPOCH};

use hw::vm::{Cause, Event};
use serde_json::{Map, Value, json};

use crate::schema::{Empty, Type, Wire};
use crate::{enumeration, structure};

/// An event as declared.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// Its name.
    pub name: &'static str,
    /// When it comes.
    pub documentation: &'static str,
    /// Its data.
    pub data: &'static Type,
}

enumeration! {
    /// Why a machine is reset or ends.
    pub(crate) enum ShutdownCause {
        /// The host failed.
        "host-error" => HostError,
        /// The `quit` command.
        "host-qmp-quit" => HostQmpQuit,
        /// The `system_reset` command.
        "host-qmp-system-reset" => HostQmpSystemReset,
        /// A signal to the program.
        "host-signal" => HostSignal,
        /// The user interface, such as a closed window.
        "host-ui" => HostUi,
        /// The guest switched off.
        "guest-shutdown" => GuestShutdown,
        /// The guest asked for a reset.
        "guest-reset" => GuestReset,
        /// The guest crashed.
        "guest-panic" => GuestPanic,
        /// A part of the machine was reset with it.
        "subsystem-reset" => SubsystemReset,
        /// A snapshot was loaded.
        "snapshot-load" => SnapshotLoad,
    }
}

impl From<Cause> for ShutdownCause {
    fn from(cause: Cause) -> ShutdownCause {
        match cause {
            Cause::HostError => ShutdownCause::HostError,
            Cause::HostQmpQuit => ShutdownCause::HostQmpQuit,
            Cause::HostQmpSystemReset => ShutdownCause::HostQmpSystemReset,
            Cause::HostSignal => ShutdownCause::HostSignal,
            Cause::HostUi => ShutdownCause::HostUi,
            Cause::GuestShutdown => ShutdownCause::GuestShutdown,
            Cause::GuestReset => ShutdownCause::GuestReset,
            Cause::GuestPanic => ShutdownCause::GuestPanic,
            Cause::SubsystemReset => ShutdownCause::SubsystemReset,
            Cause::SnapshotLoad => ShutdownCause::SnapshotLoad,
        }
    }
}

structure! {
    /// Data of RESET and SHUTDOWN.
    pub(crate) struct CauseData {
        /// The guest did it.
        "guest" => guest: bool,
        /// Why.
        "reason" => reason: ShutdownCause,
    }
}

structure! {
    /// Data of X_ACCELERATOR_CHANGED.
    pub(crate) struct AcceleratorData {
        /// The accelerator that ran the machine before.
        "from" => from: String,
        /// The one that runs it now.
        "to" => to: String,
    }
}

enumeration! {
    /// A kind of request to a disk.
    pub(crate) enum IoOperationType {
        /// It only reads.
        "read" => Read,
        /// It changes something, or makes a change durable.
        "write" => Write,
    }
}

enumeration! {
    /// What is done about a request to a disk that failed.
    pub(crate) enum BlockErrorAction {
        /// It is reported to the guest as done.
        "ignore" => Ignore,
        /// The guest is told.
        "report" => Report,
        /// The machine stops; the request is made again when it goes on.
        "stop" => Stop,
    }
}

structure! {
    /// Data of BLOCK_IO_ERROR.
    pub(crate) struct BlockIoErrorData {
        /// The disk's name, as the user gave it; empty if it has none.
        "device" => device: String,
        /// The name of its node.
        "node-name" => node: Option<String>,
        /// What kind of request it was.
        "operation" => operation: IoOperationType,
        /// What is done about it.
        "action" => action: BlockErrorAction,
        /// The host has no room.
        "nospace" => nospace: Option<bool>,
        /// Why, for people; not to be interpreted.
        "reason" => reason: String,
    }
}

impl From<&block::FailedRequest> for BlockIoErrorData {
    fn from(failed: &block::FailedRequest) -> BlockIoErrorData {
        BlockIoErrorData {
            device: failed.device.clone(),
            node: Some(failed.node.clone()),
            operation: match failed.operation {
                block::Operation::Read => IoOperationType::Read,
                block::Operation::Write => IoOperationType::Write,
            },
            action: match failed.action {
                block::ErrorAction::Report => BlockErrorAction::Report,
                block::ErrorAction::Ignore => BlockErrorAction::Ignore,
                block::ErrorAction::Stop => BlockErrorAction::Stop,
            },
            nospace: Some(failed.is_no_space),
            reason: failed.reason.clone(),
        }
    }
}

/// All events.
pub const DECLARATIONS: &[Declaration] = &[
    Declaration {
        name: "BLOCK_IO_ERROR",
        documentation: "A request of the guest to a disk failed.",
        data: BlockIoErrorData::TYPE,
    },
    Declaration { name: "POWERDOWN", documentation: "The guest was asked to switch off.", data: Empty::TYPE },
    Declaration { name: "RESET", documentation: "The machine was reset.", data: CauseData::TYPE },
    Declaration { name: "RESUME", documentation: "The machine runs.", data: Empty::TYPE },
    Declaration {
        name: "SHUTDOWN",
        documentation: "The machine ends, or stops for good with `-no-shutdown`.",
        data: CauseData::TYPE,
    },
    Declaration { name: "STOP", documentation: "The machine does not run any more.", data: Empty::TYPE },
    Declaration { name: "SUSPEND", documentation: "The guest sleeps, with its memory kept.", data: Empty::TYPE },
    Declaration { name: "WAKEUP", documentation: "The guest woke.", data: Empty::TYPE },
    Declaration {
        name: "X_ACCELERATOR_CHANGED",
        documentation: "Another accelerator runs the machine now.",
        data: AcceleratorData::TYPE,
    },
];

/// The message for an event that happened at `time`.
pub(crate) fn message(event: &Event, time: SystemTime) -> Value {
    let (seconds, microseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(time) => (i64::try_from(time.as_secs()).unwrap_or(-1), i64::from(time.subsec_micros())),
        // The host's clock is not set: what the protocol has for "no time".
        Err(_) => (-1, -1),
    };
    let mut message = Map::new();
    message.insert("timestamp".into(), json!({"seconds": seconds, "microseconds": microseconds}));
    message.insert("event".into(), event.name().into());
    if let Some(cause) = event.cause() {
        message.insert("data".into(), CauseData { guest: cause.is_guest(), reason: cause.into() }.to_wire());
    }
    if let Event::BlockIoError(failed) = event {
        message.insert("data".into(), BlockIoErrorData::from(failed).to_wire());
    }
    if let Event::AcceleratorChanged { from, to } = event {
        message.insert("data".into(), AcceleratorData { from: (*from).into(), to: (*to).into() }.to_wire());
    }
    Value::Object(message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CAUSES: [Cause; 10] = [
        Cause::HostError,
        Cause::HostQmpQuit,
        Cause::HostQmpSystemReset,
        Cause::HostSignal,
        Cause::HostUi,
        Cause::GuestShutdown,
        Cause::GuestReset,
        Cause::GuestPanic,
        Cause::SubsystemReset,
        Cause::SnapshotLoad,
    ];

    #[test]
    fn events_and_causes_have_the_machine_s_names() {
        for cause in CAUSES {
            assert_eq!(ShutdownCause::from(cause).name(), cause.name());
        }
        let cause = Cause::HostUi;
        let changed = Event::AcceleratorChanged { from: "kvm", to: "jit" };
        for event in [
            Event::Stop,
            Event::Resume,
            Event::Reset(cause),
            Event::Powerdown,
            Event::Shutdown(cause),
            Event::Suspend,
            Event::Wakeup,
            changed,
        ] {
            assert!(DECLARATIONS.iter().any(|declaration| declaration.name == event.name()), "{event:?}");
        }
    }

    #[test]
    fn an_event_has_its_time_and_its_data_if_any() {
        let time = UNIX_EPOCH + Duration::new(5, 7_000);
        let timestamp = json!({"seconds": 5, "microseconds": 7});
        assert_eq!(message(&Event::Stop, time), json!({"timestamp": timestamp, "event": "STOP"}));
        assert_eq!(
            message(&Event::Reset(Cause::GuestReset), time),
            json!({"timestamp": timestamp, "event": "RESET", "data": {"guest": true, "reason": "guest-reset"}})
        );
    }
}
