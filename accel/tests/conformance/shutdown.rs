//! Processors that cannot go on.

use accel::Exit;
use accel::state::CpuState;

use crate::machine::Machine;
use crate::program::Width;
use crate::subject::{Outcome, Subject};

/// x86-64: an exception without descriptors for its handlers is a triple fault; a new state ends the shutdown.
pub(crate) fn triple_fault(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    let fresh = machine.vcpus[0].state().unwrap();
    let mut broken = fresh.clone();
    if let CpuState::X86_64(state) = &mut broken {
        state.idt.limit = 0;
    }
    let mut program = machine.program();
    // ud2
    program.raw(&[0x0f, 0x0b]).spin();
    machine.load(&program);
    machine.vcpus[0].set_state(&broken).unwrap();
    assert_eq!(machine.run(), Exit::Shutdown);
    assert_eq!(machine.run(), Exit::Shutdown, "it stays so");
    let mut program = machine.program();
    program.set(1).store(Width::Eight, data).done();
    machine.load(&program);
    machine.vcpus[0].set_state(&fresh).unwrap();
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 1);
    Ok(())
}

/// x86-64: an instruction that the backend cannot execute ends the run with a sentence that names its place and bytes,
/// and leaves the processor before it.
pub(crate) fn an_instruction_that_cannot_be_emulated_is_named(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let mut program = machine.program();
    // A device answers there, so no backend can let the host's processor execute it: lock cmpxchg16b [rbx]
    program.nop().address(machine.layout.device + 0x100);
    let at = program.here();
    program.raw(&[0xf0, 0x48, 0x0f, 0xc7, 0x0b]).done();
    machine.load(&program);
    let exit = machine.run();
    let Exit::InternalError(sentence) = &exit else { panic!("{exit:?}") };
    assert!(sentence.contains(&format!("RIP {at:#x}")), "{sentence}");
    assert!(sentence.contains("f0 48 0f c7 0b"), "{sentence}");
    assert_eq!(machine.vcpus[0].state().unwrap().program_counter(), at);
    Ok(())
}
