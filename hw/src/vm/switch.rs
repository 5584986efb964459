//! Moving a machine to another accelerator.

use super::control::{go, halt};
use super::{Core, Error, Event, RunState};

/// Has the accelerator `name` run the machine from the present instruction on; true if that is another one than before. An
/// error leaves the machine as it was.
pub(super) fn switch_accelerator(core: &Core, name: &str) -> Result<bool, Error> {
    let from = core.accelerator.name();
    let choices = core.accelerator.choices();
    if choices.is_empty() || core.board.carry_over.is_none() {
        return Err(Error::NotSwitchable { accelerator: from });
    }
    if !choices.contains(&name) {
        return Err(Error::NoSuchAccelerator { name: name.into(), known: choices.join(", ") });
    }
    if name == from {
        return Ok(false);
    }
    let running = core.state() == RunState::Running;
    if running {
        halt(core);
    }
    let result = carry_over(core, from, name);
    if result.is_ok() {
        core.emit(Event::AcceleratorChanged { from, to: core.accelerator.name() });
    }
    if running {
        go(core);
    }
    result.map(|()| true)
}

fn carry_over(core: &Core, from: &str, to: &str) -> Result<(), Error> {
    let Some(controllers) = &core.board.carry_over else { return Ok(()) };
    let mut states = Vec::new();
    for vcpu in &core.vcpus {
        let state = core.cpu_state(vcpu)?;
        let (copy, name) = (state.clone(), to.to_owned());
        vcpu.call(move |vcpu| vcpu.set_state_in(&name, &copy)).ok_or(Error::Ended)??;
        states.push(state);
    }
    let move_to = |name: &str| {
        controllers.carry_over(&mut || {
            core.accelerator.switch_to(name)?;
            core.load_local_apics(&states);
            Ok(())
        })
    };
    move_to(to).map_err(|error| {
        // The processors' states there are untouched.
        if core.accelerator.name() == to
            && let Err(second) = move_to(from)
        {
            tracing::error!("the way back to accelerator {from}: {second}");
        }
        error.into()
    })
}
