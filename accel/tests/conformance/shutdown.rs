//! Processors that cannot go on.

use accel::Exit;
use accel::state::CpuState;
use accel::state::x86_64::cr4;

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
    // A device answers there, so no backend can let the host's processor execute it: vmovdqu8 zmm0, [rbx], which is AVX-512.
    program.nop().address(machine.layout.device + 0x100);
    let at = program.here();
    program.raw(&[0x62, 0xf1, 0x7f, 0x48, 0x6f, 0x03]).done();
    machine.load(&program);
    let mut state = machine.vcpus[0].state().unwrap();
    if let CpuState::X86_64(state) = &mut state {
        state.cr4 |= cr4::OSXSAVE;
        state.fpu.xcr0 = 0xe7;
    }
    if let Err(error) = machine.vcpus[0].set_state(&state) {
        return Err(format!("this host has no AVX-512: {error}"));
    }
    let exit = machine.run();
    let Exit::InternalError(sentence) = &exit else { panic!("{exit:?}") };
    assert!(sentence.contains(&format!("RIP {at:#x}")), "{sentence}");
    assert!(sentence.contains("62 f1 7f 48 6f 03"), "{sentence}");
    assert_eq!(machine.vcpus[0].state().unwrap().program_counter(), at);
    Ok(())
}
