//! Several processors.

use accel::Exit;
use accel::state::CpuState;
use accel::state::x86_64;

use crate::halt::wait_until_halted;
use crate::machine::{Machine, run_guarded};
use crate::program::{Program, Width};
use crate::subject::{Outcome, Subject};

/// Atomic increments from several processors lose none.
pub(crate) fn atomic_increments_add_up(subject: &Subject) -> Outcome {
    const PROCESSORS: u32 = 4;
    let mut machine = Machine::new(subject, PROCESSORS);
    let data = machine.layout.data;
    for index in 0..PROCESSORS {
        let code = machine.layout.code + 0x1000 * u64::from(index);
        let mut program = Program::new(machine.architecture, code);
        program.repeat(subject.iterations, |program| {
            program.increment_atomically(data);
        });
        program.done_as(index as u8);
        machine.load(&program);
    }
    let bus = machine.bus.clone();
    std::thread::scope(|scope| {
        for vcpu in &mut machine.vcpus {
            let bus = &bus;
            scope.spawn(move || assert_eq!(run_guarded(vcpu.as_mut(), bus), Exit::Kicked));
        }
    });
    assert_eq!(machine.read_u64(data), u64::from(PROCESSORS) * u64::from(subject.iterations));
    Ok(())
}

/// x86-64: a second processor waits after reset, can be kicked out of that, and starts where the first one's start-up
/// interrupt says.
pub(crate) fn a_second_processor_starts_up(subject: &Subject) -> Outcome {
    /// Interrupt command register of the local APIC: high half (destination), low half (command).
    const COMMAND: [u64; 2] = [0xfee0_0310, 0xfee0_0300];
    const INIT: u64 = 0x4500;
    const START_UP: u64 = 0x4600;
    /// Where the second processor starts: a page below 1 MiB.
    const START: u64 = 0x1_c000;
    const PLACE: u16 = 0xe000;

    let mut machine = Machine::without_processors(subject);
    let has_controller = machine.accelerator.capabilities().in_kernel_interrupt_controller;
    if has_controller {
        machine.accelerator.create_interrupt_controller().unwrap();
    }
    machine.add_processors(2);
    let second = CpuState::X86_64(Box::new(x86_64::CpuState::reset(1)));
    machine.vcpus[1].set_state(&second).unwrap();
    let CpuState::X86_64(second) = machine.vcpus[1].state().unwrap() else { panic!("another architecture's state") };
    assert_eq!(second.activity, x86_64::Activity::WaitForSipi);
    // xor ax, ax; mov ds, ax; inc byte [PLACE]; cli; hlt
    let [low, high] = PLACE.to_le_bytes();
    machine.write(START, &[0x31, 0xc0, 0x8e, 0xd8, 0xfe, 0x06, low, high, 0xfa, 0xf4]);
    let mut program = machine.program();
    // Without a local APIC in the backend the signals are sent by hand, as a local APIC would.
    for command in [INIT, START_UP | (START >> 12)].into_iter().filter(|_| has_controller) {
        program.set(1 << 24).store(Width::Four, COMMAND[0]).set(command).store(Width::Four, COMMAND[1]);
    }
    program.done();
    machine.load(&program);

    let (bus, handle) = (machine.bus.clone(), machine.vcpus[1].handle());
    let [first, second] = machine.vcpus.as_mut_slice() else { panic!("two processors") };
    handle.kick();
    assert_eq!(run_guarded(second.as_mut(), &bus), Exit::Kicked, "while it waits");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| run_guarded(second.as_mut(), &bus));
        assert_eq!(run_guarded(first.as_mut(), &bus), Exit::Kicked);
        if !has_controller {
            handle.inject_init();
            handle.inject_start_up((START >> 12) as u8);
        }
        let started = || {
            use vm_memory::{Bytes, MemoryRegionAddress};
            machine.ram.read_obj::<u8>(MemoryRegionAddress(u64::from(PLACE))).unwrap() == 1
        };
        while !started() && !run.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        wait_until_halted(handle.as_ref());
        handle.kick();
        assert_eq!(run.join().unwrap(), Exit::Kicked);
    });
    let CpuState::X86_64(state) = machine.vcpus[1].state().unwrap() else { panic!("another architecture's state") };
    assert_eq!((state.activity, state.cs.base, state.rip), (x86_64::Activity::Halted, START, 10));
    Ok(())
}
