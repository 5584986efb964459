//! What a machine tells its listeners.

/// Why a machine is reset or ends (`ShutdownCause` of QMP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The host failed.
    HostError,
    /// The `quit` command.
    HostQmpQuit,
    /// The `system_reset` command.
    HostQmpSystemReset,
    /// A signal to the process.
    HostSignal,
    /// The user interface: a closed window, Ctrl-A x.
    HostUi,
    /// The guest switched off.
    GuestShutdown,
    /// The guest asked for a reset, or a processor shut down.
    GuestReset,
    /// The guest crashed.
    GuestPanic,
    /// A part of the machine was reset with it.
    SubsystemReset,
    /// A snapshot was loaded.
    SnapshotLoad,
}

impl Cause {
    /// QMP's name.
    pub fn name(self) -> &'static str {
        match self {
            Cause::HostError => "host-error",
            Cause::HostQmpQuit => "host-qmp-quit",
            Cause::HostQmpSystemReset => "host-qmp-system-reset",
            Cause::HostSignal => "host-signal",
            Cause::HostUi => "host-ui",
            Cause::GuestShutdown => "guest-shutdown",
            Cause::GuestReset => "guest-reset",
            Cause::GuestPanic => "guest-panic",
            Cause::SubsystemReset => "subsystem-reset",
            Cause::SnapshotLoad => "snapshot-load",
        }
    }

    /// True if the guest did it (`guest` in the data of RESET and SHUTDOWN).
    pub fn is_guest(self) -> bool {
        matches!(self, Cause::GuestShutdown | Cause::GuestReset | Cause::GuestPanic)
    }
}

/// Something that happened to the machine, as QMP's events of the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// STOP: it runs no more.
    Stop,
    /// RESUME: it runs.
    Resume,
    /// RESET: it was reset.
    Reset(Cause),
    /// POWERDOWN: the guest was asked to switch off.
    Powerdown,
    /// SHUTDOWN: it ends, or stops for good with `-no-shutdown`.
    Shutdown(Cause),
    /// SUSPEND: the guest sleeps.
    Suspend,
    /// WAKEUP: it woke.
    Wakeup,
    /// BLOCK_IO_ERROR: a request of the guest to a disk failed.
    BlockIoError(block::FailedRequest),
    /// X_ACCELERATOR_CHANGED: another accelerator runs it now.
    AcceleratorChanged {
        /// The one that ran it before.
        from: &'static str,
        /// The one that runs it.
        to: &'static str,
    },
}

impl Event {
    /// QMP's name.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Stop => "STOP",
            Event::Resume => "RESUME",
            Event::Reset(_) => "RESET",
            Event::Powerdown => "POWERDOWN",
            Event::Shutdown(_) => "SHUTDOWN",
            Event::Suspend => "SUSPEND",
            Event::Wakeup => "WAKEUP",
            Event::BlockIoError(_) => "BLOCK_IO_ERROR",
            Event::AcceleratorChanged { .. } => "X_ACCELERATOR_CHANGED",
        }
    }

    /// Why, for those events whose data says it.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Event::Reset(cause) | Event::Shutdown(cause) => Some(*cause),
            Event::Stop
            | Event::Resume
            | Event::Powerdown
            | Event::Suspend
            | Event::Wakeup
            | Event::BlockIoError(_)
            | Event::AcceleratorChanged { .. } => None,
        }
    }
}
