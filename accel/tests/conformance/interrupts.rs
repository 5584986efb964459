//! Interrupts and non-maskable interrupts.

use accel::state::CpuState;
use accel::{Architecture, Error, Exit, Msi};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::VECTOR;
use crate::halt::wait_until_halted;
use crate::machine::{Machine, run_guarded};
use crate::program::{Program, Width};
use crate::subject::{Outcome, Subject};

/// An interrupt is taken while the guest runs, once.
pub(crate) fn interrupt_of_a_running_processor(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (data, input) = (machine.layout.data, machine.layout.input);
    machine.load(&Program::handler(machine.architecture, data));
    let mut program = machine.program();
    program.enable_interrupts();
    program.repeat(subject.iterations, |program| {
        program.nop();
    });
    program.done();
    machine.load(&program);
    machine.vcpus[0].handle().set_interrupt(input, true);
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 1);
    Ok(())
}

/// An interrupt waits until the guest accepts interrupts.
pub(crate) fn interrupts_wait_while_they_are_off(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (data, input) = (machine.layout.data, machine.layout.input);
    machine.load(&Program::handler(machine.architecture, data));
    let mut program = machine.program();
    program.repeat(10, |program| {
        program.nop();
    });
    program.load(Width::Eight, data).store(Width::Eight, data + 8);
    // How soon one is taken is the backend's business.
    program.enable_interrupts().repeat(subject.iterations, |program| {
        program.nop();
    });
    program.load(Width::Eight, data).store(Width::Eight, data + 16).done();
    machine.load(&program);
    machine.write(data + 8, &[0xff; 8]);
    machine.vcpus[0].handle().set_interrupt(input, true);
    machine.run_to_end();
    assert_eq!((machine.read_u64(data + 8), machine.read_u64(data + 16)), (0, 1), "before and after");
    Ok(())
}

/// x86-64: STI lets interrupts in behind the next instruction, however soon CLI comes then, and not before it.
pub(crate) fn interrupts_come_behind_the_instruction_after_sti(subject: &Subject) -> Outcome {
    /// STI; CLI.
    const NO_WINDOW: &[u8] = &[0xfb, 0xfa];
    /// STI; NOP; CLI.
    const WINDOW: &[u8] = &[0xfb, 0x90, 0xfa];
    /// STI; JMP to what follows; CLI.
    const WINDOW_BEHIND_A_JUMP: &[u8] = &[0xfb, 0xeb, 0x00, 0xfa];

    for window in [WINDOW, WINDOW_BEHIND_A_JUMP] {
        let mut machine = Machine::new(subject, 1);
        let (data, input) = (machine.layout.data, machine.layout.input);
        machine.load(&Program::handler(machine.architecture, data));
        let mut program = machine.program();
        program.repeat(10, |program| {
            program.raw(NO_WINDOW);
        });
        program.load(Width::Eight, data).store(Width::Eight, data + 8);
        // Until the handler has counted, since how soon that is is the backend's business: cmp dword [data], 0; je back
        let back = program.here();
        program.raw(window).raw(&[0x83, 0x3c, 0x25]).raw(&(data as u32).to_le_bytes()).raw(&[0, 0x74]);
        let distance = back.wrapping_sub(program.here() + 1) as u8;
        program.raw(&[distance]).done();
        machine.load(&program);
        machine.write(data + 8, &[0xff; 8]);
        machine.vcpus[0].handle().set_interrupt(input, true);
        machine.run_to_end();
        assert_eq!((machine.read_u64(data + 8), machine.read_u64(data)), (0, 1), "before and after");
    }
    Ok(())
}

/// A level that falls before the guest looks leaves no interrupt behind.
pub(crate) fn a_lowered_interrupt_is_gone(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (data, input) = (machine.layout.data, machine.layout.input);
    machine.load(&Program::handler(machine.architecture, data));
    let mut program = machine.program();
    program.enable_interrupts().repeat(10, |program| {
        program.nop();
    });
    program.done();
    machine.load(&program);
    let handle = machine.vcpus[0].handle();
    handle.set_interrupt(input, true);
    handle.set_interrupt(input, false);
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 0);
    Ok(())
}

/// Inputs that no processor has are nobody's.
pub(crate) fn inputs_that_do_not_exist(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    machine.load(&Program::handler(machine.architecture, data));
    let mut program = machine.program();
    program.enable_interrupts().repeat(10, |program| {
        program.nop();
    });
    program.done();
    machine.load(&program);
    let handle = machine.vcpus[0].handle();
    for input in [1, 31, 32, 63, 64, 75, u32::MAX] {
        handle.set_interrupt(input, true);
    }
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 0);
    Ok(())
}

/// x86-64: one that was requested before the state was read is part of that state.
pub(crate) fn a_requested_nmi_moves_with_the_state(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let mut other = Machine::new(subject, 1);
    let data = machine.layout.data;
    for machine in [&machine, &other] {
        machine.load(&Program::handler(machine.architecture, data));
        let mut program = machine.program();
        program.repeat(10, |program| {
            program.nop();
        });
        program.done();
        machine.load(&program);
    }
    machine.vcpus[0].handle().inject_nmi().unwrap();
    let state = machine.vcpus[0].state().unwrap();
    other.vcpus[0].set_state(&state).unwrap();
    for machine in [&mut machine, &mut other] {
        machine.run_to_end();
        assert_eq!(machine.read_u64(data), 1);
    }
    Ok(())
}

/// A non-maskable interrupt is taken with interrupts off, running or halted; other architectures refuse it.
pub(crate) fn non_maskable_interrupts(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    let handle = machine.vcpus[0].handle();
    if machine.architecture != Architecture::X86_64 {
        assert!(handle.inject_nmi().is_err(), "riscv64 has no such input");
        return Ok(());
    }
    machine.load(&Program::handler(machine.architecture, data));
    let mut program = machine.program();
    program.repeat(10, |program| {
        program.nop();
    });
    program.halt().done();
    machine.load(&program);
    handle.inject_nmi().unwrap();
    let bus = machine.bus.clone();
    std::thread::scope(|scope| {
        let vcpu = &mut machine.vcpus[0];
        let run = scope.spawn(|| run_guarded(vcpu.as_mut(), &bus));
        wait_until_halted(handle.as_ref());
        handle.inject_nmi().unwrap();
        assert_eq!(run.join().unwrap(), Exit::Kicked);
    });
    assert_eq!(machine.read_u64(data), 2);
    Ok(())
}

/// Lines, event descriptors and messages reach a guest through the backend's own controller.
pub(crate) fn interrupts_through_the_backends_controller(subject: &Subject) -> Outcome {
    const LINE: u8 = 5;
    const IO_APIC: u64 = 0xfec0_0000;
    const END_OF_INTERRUPT: u64 = 0xfee0_00b0;
    /// Spurious-interrupt vector register: its position in the state, its value with the APIC enabled.
    const SPURIOUS: (usize, u32) = (0xf, 0x1ff);

    let mut machine = Machine::without_processors(subject);
    if !machine.accelerator.capabilities().in_kernel_interrupt_controller {
        let refused = machine.accelerator.create_interrupt_controller();
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
        return Ok(());
    }
    machine.accelerator.create_interrupt_controller().unwrap();
    machine.add_processors(1);
    let mut state = machine.vcpus[0].state().unwrap();
    if let CpuState::X86_64(state) = &mut state {
        state.local_apic.as_mut().expect("a local APIC")[SPURIOUS.0] = SPURIOUS.1;
    }
    machine.vcpus[0].set_state(&state).unwrap();
    let data = machine.layout.data;
    let mut handler = Program::new(machine.architecture, machine.layout.handler);
    crate::x86::handler(handler.bytes_mut(), data, END_OF_INTERRUPT);
    machine.load(&handler);
    let mut program = machine.program();
    // The old controllers, to which the line leads as well, masked: mov al, 0xff; out 0x21, al; out 0xa1, al
    program.raw(&[0xb0, 0xff, 0xe6, 0x21, 0xe6, 0xa1]);
    for (register, value) in [(0x11 + 2 * LINE, 0), (0x10 + 2 * LINE, VECTOR)] {
        program.set(u64::from(register)).store(Width::Four, IO_APIC);
        program.set(u64::from(value)).store(Width::Four, IO_APIC + 0x10);
    }
    program.enable_interrupts().halt().halt().halt().done();
    machine.load(&program);
    let (bus, accelerator, handle) = (machine.bus.clone(), machine.accelerator.clone(), machine.vcpus[0].handle());
    let ram = machine.ram.clone();
    let count = || {
        use vm_memory::{Bytes, MemoryRegionAddress};
        ram.read_obj::<u64>(MemoryRegionAddress(data)).unwrap()
    };
    let event = EventFd::new(0).unwrap();
    accelerator.register_interrupt_event(u32::from(LINE), &event).unwrap();
    std::thread::scope(|scope| {
        let vcpu = &mut machine.vcpus[0];
        let run = scope.spawn(|| run_guarded(vcpu.as_mut(), &bus));
        let wait = |expected| {
            while count() != expected || !handle.is_halted() {
                if run.is_finished() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        };
        wait(0);
        accelerator.set_interrupt_line(u32::from(LINE), true).unwrap();
        accelerator.set_interrupt_line(u32::from(LINE), false).unwrap();
        wait(1);
        event.write(1).unwrap();
        wait(2);
        accelerator.signal_msi(Msi { address: 0xfee0_0000, data: u32::from(VECTOR) }).unwrap();
        assert_eq!(run.join().unwrap(), Exit::Kicked);
    });
    assert_eq!(count(), 3);
    machine.accelerator.unregister_interrupt_event(u32::from(LINE), &event).unwrap();
    Ok(())
}
