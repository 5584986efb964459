//! The control thread: the one place where a machine changes its run state.
//!
//! Requests come in over a channel, from any number of threads, and are carried out one after the other; who asked
//! waits for the answer. Nothing here holds a lock while it waits for a vCPU.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use accel::Exit;

use super::sleep::{suspend, wake};
use super::switch::switch_accelerator;
use super::{Cause, Core, Error, Event, RunState};
use crate::bus::Effect;

/// How long the end of a machine waits for a vCPU that does not leave the guest.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What the control thread can be asked to do.
pub(super) enum Command {
    Continue,
    Stop(RunState),
    Reset(Cause),
    Shutdown {
        cause: Cause,
        exit_status: u8,
    },
    Powerdown,
    /// A sleeping guest is to wake.
    Wake {
        by_clock: bool,
    },
    /// Another accelerator is to run the machine.
    SwitchAccelerator(String),
    Quit(Cause),
    /// An access to a device had an effect; see [`Core::pending_effect`].
    Effect,
    VcpuExit {
        index: u32,
        exit: Exit,
    },
    /// Tells whoever asked that what was asked for before is done.
    Nothing,
    /// The machine's owner dropped it.
    Abandon,
}

/// A request, and where the answer goes.
pub(super) struct Message {
    pub(super) command: Command,
    pub(super) reply: Option<SyncSender<Result<bool, Error>>>,
}

/// Serves requests until the machine ends.
pub(super) fn serve(core: &Arc<Core>, messages: &Receiver<Message>) {
    while let Ok(Message { command, reply }) = messages.recv() {
        let result = execute(core, command);
        let ended = core.exit_status.lock().is_some();
        if let Some(reply) = reply {
            // Who asked may have gone.
            let _ = reply.send(result);
        } else if let Err(error) = result {
            tracing::error!("{error}");
        }
        if ended {
            return;
        }
    }
}

fn execute(core: &Arc<Core>, command: Command) -> Result<bool, Error> {
    match command {
        Command::Continue => resume(core).map(|()| true),
        Command::Stop(state) => {
            stop(core, state);
            Ok(true)
        }
        Command::Reset(cause) => reset(core, cause).map(|()| true),
        Command::Shutdown { cause, exit_status } => {
            shutdown(core, cause, exit_status);
            Ok(true)
        }
        Command::Powerdown => {
            core.emit(Event::Powerdown);
            if let Some(press) = &core.board.power_button {
                press();
            }
            Ok(core.board.power_button.is_some())
        }
        Command::Wake { by_clock } => wake(core, by_clock).map(|()| true),
        Command::SwitchAccelerator(name) => switch_accelerator(core, &name),
        Command::Quit(cause) => {
            core.emit(Event::Shutdown(cause));
            end(core, 0);
            Ok(true)
        }
        Command::Nothing => Ok(true),
        Command::Abandon => {
            end(core, 0);
            Ok(true)
        }
        Command::Effect => effect(core).map(|()| true),
        Command::VcpuExit { index, exit } => vcpu_exit(core, index, exit).map(|()| true),
    }
}

/// Makes all vCPUs leave the guest and waits until they have.
pub(super) fn pause_vcpus(core: &Core) {
    for vcpu in &core.vcpus {
        vcpu.pause();
    }
    wait_for_vcpus(core);
}

/// Waits until all vCPUs, which were asked to, have left the guest.
fn wait_for_vcpus(core: &Core) {
    for vcpu in &core.vcpus {
        while !vcpu.wait_paused(Some(Instant::now() + PATIENCE)) {
            tracing::warn!("vCPU {} has not left the guest for {} s", vcpu.index(), PATIENCE.as_secs());
            if core.quitting.load(Ordering::Acquire) {
                break;
            }
        }
    }
}

fn resume(core: &Core) -> Result<(), Error> {
    let state = core.state();
    if state.needs_reset() {
        return Err(Error::NeedsReset);
    }
    // One that sleeps goes on by waking.
    if state == RunState::Running || state == RunState::Suspended {
        return Ok(());
    }
    core.disks.forget_failures();
    core.set_state(RunState::Running);
    core.emit(Event::Resume);
    go(core);
    Ok(())
}

pub(super) fn go(core: &Core) {
    for device in &core.board.devices {
        device.resume();
    }
    core.clock.resume();
    for vcpu in &core.vcpus {
        vcpu.resume();
    }
}

pub(super) fn halt(core: &Core) {
    pause_vcpus(core);
    core.clock.pause();
    for device in &core.board.devices {
        device.pause();
    }
    core.disks.flush_blocking();
}

/// Stops the machine if it runs.
fn stop(core: &Core, state: RunState) {
    if core.state() == RunState::Running {
        halt(core);
        core.set_state(state);
        core.emit(Event::Stop);
    }
}

fn reset(core: &Core, cause: Cause) -> Result<(), Error> {
    if core.no_reboot {
        shutdown(core, cause, 0);
        return Ok(());
    }
    let before = core.state();
    let runs = before == RunState::Running || before == RunState::Suspended;
    if runs {
        halt(core);
    }
    core.initialise()?;
    if before == RunState::Suspended {
        core.set_state(RunState::Running);
    }
    if before.needs_reset() {
        core.set_state(RunState::Paused);
    }
    core.emit(Event::Reset(cause));
    if runs {
        go(core);
    }
    Ok(())
}

/// The machine is to end; with `-no-shutdown` it stops instead.
fn shutdown(core: &Core, cause: Cause, exit_status: u8) {
    core.emit(Event::Shutdown(cause));
    if core.no_shutdown {
        if core.state() == RunState::Running {
            stop(core, RunState::Shutdown);
        } else {
            core.set_state(RunState::Shutdown);
        }
    } else {
        end(core, i32::from(exit_status));
    }
}

/// Ends the machine.
fn end(core: &Core, exit_status: i32) {
    core.quitting.store(true, Ordering::Release);
    if core.state() == RunState::Running {
        core.clock.pause();
    }
    for vcpu in &core.vcpus {
        vcpu.end();
    }
    let deadline = Instant::now() + PATIENCE;
    for vcpu in &core.vcpus {
        if !vcpu.wait_gone(deadline.saturating_duration_since(Instant::now())) {
            tracing::warn!("vCPU {} does not leave the guest; the machine ends without it", vcpu.index());
        }
    }
    // Whose disks are closed next: nothing may be under way then.
    for device in &core.board.devices {
        device.pause();
    }
    core.set_state(RunState::Shutdown);
    for backend in &core.backends {
        backend.flush(Duration::from_millis(500));
    }
    *core.exit_status.lock() = Some(exit_status);
    core.exited.notify_all();
}

/// Carries out what a device access asked for. All vCPUs are parked.
fn effect(core: &Core) -> Result<(), Error> {
    // Taken only now, so that a guest that asks again and again does not fill the channel.
    let effect = core.pending_effect.lock().take();
    if core.memory_map_changed.load(Ordering::Acquire) {
        // Again, as those parked may go on since: the effect before this one let them, after a vCPU on its way out of the guest
        // had changed the map a second time.
        core.park_vcpus();
        wait_for_vcpus(core);
        core.memory_map_changed.store(false, Ordering::Release);
        core.apply_memory_map()?;
    }
    match effect.unwrap_or(Effect::None) {
        Effect::None | Effect::MemoryMap | Effect::Wake => {}
        Effect::Suspend => suspend(core),
        Effect::Reset => reset(core, Cause::GuestReset)?,
        Effect::PowerOff { exit_status } => shutdown(core, Cause::GuestShutdown, exit_status),
        Effect::Failure { exit_status } => shutdown(core, Cause::GuestPanic, exit_status),
    }
    if core.state() == RunState::Running {
        for vcpu in &core.vcpus {
            vcpu.resume();
        }
    }
    Ok(())
}

/// A vCPU left the guest by itself; it is parked.
fn vcpu_exit(core: &Core, index: u32, exit: Exit) -> Result<(), Error> {
    match exit {
        Exit::Kicked => {}
        Exit::Debug(event) => {
            *core.last_debug_event.lock() = Some((index, event));
            stop(core, RunState::Debug);
        }
        Exit::Shutdown => reset(core, Cause::GuestReset)?,
        Exit::InternalError(reason) => {
            tracing::error!("vCPU {index}: {}: {reason}", core.accelerator.name());
            *core.last_internal_error.lock() = Some((index, reason));
            stop(core, RunState::InternalError);
        }
    }
    Ok(())
}
