//! The guest sleeps (ACPI S3): its processors stand still, memory stays, and time goes on until something wakes it.

use std::sync::atomic::Ordering;

use super::control::{go, halt, pause_vcpus};
use super::{Core, Error, Event, RunState};

/// The guest asked to sleep.
pub(super) fn suspend(core: &Core) {
    if core.state() != RunState::Running {
        return;
    }
    pause_vcpus(core);
    if let Some(sleep) = &core.board.sleep {
        sleep.begin();
    }
    core.set_state(RunState::Suspended);
    core.emit(Event::Suspend);
    // What woke it meanwhile counts from here on.
    core.wake_requested.store(false, Ordering::Release);
}

/// Wakes a sleeping machine: a reset, but of memory. `by_clock` tells whether the real-time clock did it.
pub(super) fn wake(core: &Core, by_clock: bool) -> Result<(), Error> {
    let Some(sleep) = core.board.sleep.as_ref().filter(|_| core.state() == RunState::Suspended) else {
        return Err(Error::NotSuspended);
    };
    halt(core);
    let lasting = sleep.lasting();
    core.initialise_with(false)?;
    sleep.end(lasting, by_clock);
    core.apply_memory_map()?;
    core.set_state(RunState::Running);
    core.emit(Event::Wakeup);
    go(core);
    Ok(())
}
