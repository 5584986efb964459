//! The run state of a machine, with the names that QMP gives it.

/// What a machine is doing (`RunState` of QMP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RunState {
    /// Stopped by a breakpoint, watchpoint or single step.
    Debug,
    /// Waits for an incoming migration.
    Inmigrate,
    /// An accelerator could not go on. Only a reset helps.
    InternalError,
    /// A disk failed and the user asked to stop then.
    IoError,
    /// Stopped by the user.
    Paused,
    /// Stopped after its state was sent elsewhere.
    Postmigrate,
    /// Built, not started.
    Prelaunch,
    /// Stopped while the last of its state is sent.
    FinishMigrate,
    /// Stopped while a saved state is loaded.
    RestoreVm,
    /// Runs.
    Running,
    /// Stopped while its state is saved.
    SaveVm,
    /// The guest switched off, and the user asked to stay (`-no-shutdown`). Only a reset helps.
    Shutdown,
    /// The guest sleeps (ACPI S3).
    Suspended,
    /// A watchdog stopped it.
    Watchdog,
    /// The guest reported that it crashed.
    GuestPanicked,
    /// Runs beside a copy of itself.
    Colo,
    /// Not built yet (`-preconfig`).
    Preconfig,
}

impl RunState {
    /// All states.
    pub const ALL: [RunState; 17] = [
        RunState::Debug,
        RunState::Inmigrate,
        RunState::InternalError,
        RunState::IoError,
        RunState::Paused,
        RunState::Postmigrate,
        RunState::Prelaunch,
        RunState::FinishMigrate,
        RunState::RestoreVm,
        RunState::Running,
        RunState::SaveVm,
        RunState::Shutdown,
        RunState::Suspended,
        RunState::Watchdog,
        RunState::GuestPanicked,
        RunState::Colo,
        RunState::Preconfig,
    ];

    /// QMP's name.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Debug => "debug",
            RunState::Inmigrate => "inmigrate",
            RunState::InternalError => "internal-error",
            RunState::IoError => "io-error",
            RunState::Paused => "paused",
            RunState::Postmigrate => "postmigrate",
            RunState::Prelaunch => "prelaunch",
            RunState::FinishMigrate => "finish-migrate",
            RunState::RestoreVm => "restore-vm",
            RunState::Running => "running",
            RunState::SaveVm => "save-vm",
            RunState::Shutdown => "shutdown",
            RunState::Suspended => "suspended",
            RunState::Watchdog => "watchdog",
            RunState::GuestPanicked => "guest-panicked",
            RunState::Colo => "colo",
            RunState::Preconfig => "preconfig",
        }
    }

    /// True if the machine can only go on after a reset.
    pub fn needs_reset(self) -> bool {
        matches!(self, RunState::InternalError | RunState::Shutdown)
    }
}
