//! Guest writes that signal an event descriptor.

use accel::{AddressSpace, Error, IoEvent};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::machine::Machine;
use crate::program::Width;
use crate::subject::{Outcome, Subject};

/// Matching writes signal the descriptor and do not reach the bus; all others do.
pub(crate) fn io_events(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let address = machine.layout.device + 0x100;
    let event = |width, value| IoEvent { space: AddressSpace::Memory, address, width, value };
    let run = |machine: &mut Machine| {
        let mut program = machine.program();
        program.set(7).store(Width::Four, address).store(Width::Two, address).set(8).store(Width::Four, address).done();
        machine.load(&program);
        machine.restart_at(program.origin());
        machine.run_to_end();
        machine.bus.take_log().len()
    };
    // Which of the three writes an event matches.
    for (event, expected) in [(event(4, Some(7)), 1), (event(4, None), 2), (event(0, None), 3)] {
        let fd = EventFd::new(EFD_NONBLOCK).unwrap();
        match machine.accelerator.register_io_event(event, &fd) {
            Err(Error::Unsupported { what, .. }) => return Err(format!("the backend does not support {what}")),
            result => result.unwrap(),
        }
        assert_eq!(run(&mut machine), 3 - expected, "{event:?}");
        assert_eq!(fd.read().unwrap(), expected as u64, "{event:?}");
        machine.accelerator.unregister_io_event(event, &fd).unwrap();
        assert_eq!(run(&mut machine), 3, "{event:?}");
        assert!(fd.read().is_err(), "{event:?} goes on");
    }
    Ok(())
}
