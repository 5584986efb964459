//! Halting and waking.

use std::sync::mpsc;

use accel::{Exit, VcpuHandle};

use crate::machine::{LONG, Machine, run_guarded};
use crate::program::{Program, Width};
use crate::subject::{Outcome, Subject};

/// Returns once the processor is halted.
pub(crate) fn wait_until_halted(handle: &dyn VcpuHandle) {
    let start = std::time::Instant::now();
    while !handle.is_halted() {
        assert!(start.elapsed() < LONG, "it does not halt");
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}

/// A halted processor waits inside `run` and goes on after an interrupt.
pub(crate) fn an_interrupt_wakes_a_halted_processor(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (data, input) = (machine.layout.data, machine.layout.input);
    machine.load(&Program::handler(machine.architecture, data));
    let mut program = machine.program();
    program.enable_interrupts().halt().load(Width::Eight, data).store(Width::Eight, data + 8).done();
    machine.load(&program);
    let (bus, handle) = (machine.bus.clone(), machine.vcpus[0].handle());
    assert!(!handle.is_halted(), "it does not run yet");
    std::thread::scope(|scope| {
        let vcpu = &mut machine.vcpus[0];
        let run = scope.spawn(|| run_guarded(vcpu.as_mut(), &bus));
        wait_until_halted(handle.as_ref());
        handle.set_interrupt(input, true);
        assert_eq!(run.join().unwrap(), Exit::Kicked);
    });
    assert!(!handle.is_halted());
    assert_eq!((machine.read_u64(data), machine.read_u64(data + 8)), (1, 1), "taken, and before the halt ended");
    Ok(())
}

/// A kick gets a halted processor out of `run`; run again it still waits, until an interrupt comes.
pub(crate) fn a_kicked_processor_stays_halted(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (data, input) = (machine.layout.data, machine.layout.input);
    machine.load(&Program::handler(machine.architecture, data));
    let mut program = machine.program();
    program.enable_interrupts().halt().set(1).store(Width::Eight, data + 8).done();
    machine.load(&program);
    let (bus, handle, ram) = (machine.bus.clone(), machine.vcpus[0].handle(), machine.ram.clone());
    let reached_end = || {
        use vm_memory::{Bytes, MemoryRegionAddress};
        let offset = data + 8 - crate::machine::layout(subject.architecture).ram;
        ram.read_obj::<u64>(MemoryRegionAddress(offset)).unwrap() != 0
    };
    let (exited, exits) = mpsc::channel();
    std::thread::scope(|scope| {
        let vcpu = &mut machine.vcpus[0];
        scope.spawn(move || {
            exited.send(run_guarded(vcpu.as_mut(), &bus)).unwrap();
            exited.send(run_guarded(vcpu.as_mut(), &bus)).unwrap();
            // A state that was read and written back is halted, too.
            let state = vcpu.state().unwrap();
            vcpu.set_state(&state).unwrap();
            exited.send(run_guarded(vcpu.as_mut(), &bus)).unwrap();
        });
        for _ in 0..2 {
            wait_until_halted(handle.as_ref());
            assert!(!reached_end());
            handle.kick();
            assert_eq!(exits.recv().unwrap(), Exit::Kicked);
        }
        wait_until_halted(handle.as_ref());
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!reached_end());
        handle.set_interrupt(input, true);
        assert_eq!(exits.recv().unwrap(), Exit::Kicked);
        assert!(reached_end());
    });
    assert_eq!(machine.read_u64(data), 1);
    Ok(())
}
