//! Reading and writing the state of a processor.

use accel::state::x86_64::{Float80, gpr, msr, rflags};
use accel::state::{ControllerState, CpuState, riscv64, x86_64};
use accel::{DebugControl, DebugEvent, Error, Exit};

use crate::machine::Machine;
use crate::program::Width;
use crate::subject::{Outcome, Subject};

/// Takes away what depends on time rather than on the program.
fn without_time(state: CpuState) -> CpuState {
    match state {
        CpuState::X86_64(mut state) => {
            state.msrs.remove(&msr::TSC);
            CpuState::X86_64(state)
        }
        CpuState::Riscv64(state) => {
            CpuState::Riscv64(Box::new(riscv64::CpuState { mcycle: 0, minstret: 0, reservation: None, ..*state }))
        }
    }
}

/// A program that is saved after any number of steps and continued in a fresh machine ends as one that ran through.
pub(crate) fn a_saved_program_continues_elsewhere(subject: &Subject) -> Outcome {
    let build = || {
        let machine = Machine::new(subject, 1);
        let data = machine.layout.data;
        let mut program = machine.program();
        program.set(0x0123_4567_89ab_cdef).address(data);
        program.repeat(6, |program| {
            program.add(77).store_there(Width::Eight).load_there(Width::Two).add(3);
            program.increment_atomically(data + 8).address(data);
        });
        program.store(Width::Eight, data + 16).done();
        machine.load(&program);
        machine
    };
    let mut whole = build();
    whole.run_to_end();
    let expected = (without_time(whole.vcpus[0].state().unwrap()), whole.contents());
    for steps in [1, 2, 7, 20, 33] {
        let mut first = build();
        first.vcpus[0].set_debug(&DebugControl { single_step: true, ..DebugControl::default() }).unwrap();
        for _ in 0..steps {
            assert_eq!(first.run(), Exit::Debug(DebugEvent::SingleStep));
        }
        let saved = serde_json::to_string(&first.vcpus[0].state().unwrap()).unwrap();
        let contents = first.contents();
        drop(first);
        let mut second = build();
        second.write(second.layout.ram, &contents);
        second.vcpus[0].set_state(&serde_json::from_str(&saved).unwrap()).unwrap();
        second.run_to_end();
        let end = (without_time(second.vcpus[0].state().unwrap()), second.contents());
        assert_eq!(end.0, expected.0, "after {steps} steps");
        assert!(end.1 == expected.1, "memory differs after {steps} steps");
    }
    Ok(())
}

/// Every part of a state that is written is read back.
pub(crate) fn a_written_state_is_read_back(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let mut state = machine.vcpus[0].state().unwrap();
    match &mut state {
        CpuState::X86_64(state) => scramble_x86(state),
        CpuState::Riscv64(state) => scramble_riscv(state),
    }
    machine.vcpus[0].set_state(&state).unwrap();
    assert_eq!(without_time(machine.vcpus[0].state().unwrap()), without_time(state.clone()));
    // And in another machine.
    let mut other = Machine::new(subject, 1);
    other.vcpus[0].set_state(&state).unwrap();
    assert_eq!(without_time(other.vcpus[0].state().unwrap()), without_time(state));
    Ok(())
}

fn scramble_x86(state: &mut x86_64::CpuState) {
    for (value, register) in (1..).zip(&mut state.gpr) {
        *register = 0x1111_2222_3333_4444_u64.wrapping_mul(value);
    }
    state.rip = 0xffff_8000_1234_5678;
    state.rflags |= rflags::IF | 0xd5;
    state.fs.base = 0x7fff_1234_5678;
    state.gs.base = 0xffff_8888_0000_0000;
    state.cr2 = 0xdead_beef;
    state.cr8 = 5;
    if let Some(local_apic) = &mut state.local_apic {
        // The task priority register holds CR8.
        local_apic[8] = 5 << 4;
    }
    state.dr = [0x1000, 0x2000, 0x3000, 0x4000];
    state.dr7 = 0x0055 | 0x400;
    state.fpu.fcw = 0x27f;
    state.fpu.fsw = 0x3800;
    state.fpu.ftw = 0x80;
    state.fpu.st[0] = Float80 { significand: 0xc000_0000_0000_0000, sign_exponent: 0xc000 };
    state.fpu.mxcsr = 0x1fa1;
    for (value, xmm) in (1..).zip(&mut state.fpu.xmm) {
        *xmm = [value << 32, 0x5a5a_0000_0000_0000 + value];
    }
    state.fpu.ymm_high[3] = [0x1234, 0x5678];
    state.fpu.xcr0 = 7;
    for (number, value) in [
        (msr::STAR, 0x0023_0010_0000_0000),
        (msr::LSTAR, 0xffff_8000_0000_1000),
        (msr::SFMASK, 0x4_7700),
        (msr::KERNEL_GS_BASE, 0xffff_8000_0000_2000),
        (msr::PAT, 0x0007_0406_0007_0401),
    ] {
        state.msrs.insert(number, value);
    }
    state.events.nmi_masked = true;
}

fn scramble_riscv(state: &mut riscv64::CpuState) {
    for (value, register) in (1..).zip(&mut state.x[1..]) {
        *register = 0x1111_2222_3333_4444_u64.wrapping_mul(value);
    }
    for (value, register) in (1..).zip(&mut state.f) {
        *register = 0x4000_0000_0000_0000 + value;
    }
    state.pc = 0x8000_4444;
    state.fcsr = 0x7f;
    state.privilege = 1;
    // SD, FS dirty, SIE, SPP.
    state.mstatus = state.mstatus | 1 << 63 | 3 << 13 | 1 << 8 | 1 << 1;
    state.medeleg = 0xb109;
    state.mideleg = 0x222;
    state.mie = 0xaaa;
    state.mtvec = 0x8000_1000;
    state.mscratch = 0x1234_5678_9abc_def0;
    state.mepc = 0x8000_2000;
    state.mcause = 0x8000_0000_0000_0007;
    state.mtval = 0xffff_ffff_8000_0000;
    state.mcounteren = 7;
    state.stvec = 0x8000_3000;
    state.sscratch = 0x0fed_cba9_8765_4321;
    state.sepc = 0x8000_5000;
    state.scause = 13;
    state.stval = 0x4000;
    state.scounteren = 5;
    state.satp = 8 << 60 | 0x8_0100;
    state.waiting = false;
}

/// The state of another architecture, and one that makes no sense, are refused and do no harm.
pub(crate) fn impossible_states_are_refused(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let before = machine.vcpus[0].state().unwrap();
    if let CpuState::X86_64(state) = &before {
        let mut broken = state.clone();
        broken.fpu.components.insert(62, vec![0; 8]);
        assert!(machine.vcpus[0].set_state(&CpuState::X86_64(broken)).is_err());
        assert_eq!(without_time(machine.vcpus[0].state().unwrap()), without_time(before.clone()));
    } else {
        let other = CpuState::X86_64(Box::new(x86_64::CpuState::reset(0)));
        assert!(machine.vcpus[0].set_state(&other).is_err());
    }
    let data = machine.layout.data;
    let mut program = machine.program();
    program.set(4).store(Width::Eight, data).done();
    machine.load(&program);
    machine.vcpus[0].set_state(&before).unwrap();
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 4);
    Ok(())
}

/// x86-64: a new processor is in the reset state and starts at the reset vector, in real mode.
pub(crate) fn a_new_processor_starts_at_the_reset_vector(subject: &Subject) -> Outcome {
    use accel::memory::{MemorySlot, allocate};
    use vm_memory::{Bytes, MemoryRegionAddress};

    let mut machine = Machine::without_processors(subject);
    let rom = allocate(0xffff_f000, 0x1000).unwrap();
    // mov dx, DONE_PORT; mov cx, 0x1234; out dx, al; jmp $
    let code = [0xba, 0x00, 0x02, 0xb9, 0x34, 0x12, 0xee, 0xeb, 0xfe];
    rom.write_slice(&code, MemoryRegionAddress(0xff0)).unwrap();
    machine.accelerator.map_memory(MemorySlot { region: rom, read_only: true }).unwrap();
    let vcpu = machine.accelerator.create_vcpu(0).unwrap();
    machine.bus.add(vcpu.handle());
    machine.vcpus.push(vcpu);
    let CpuState::X86_64(state) = machine.vcpus[0].state().unwrap() else { panic!("another architecture's state") };
    let mut expected = x86_64::CpuState::reset(0);
    // What the constructor leaves to the backend: the model in DX, and registers that only this host has.
    expected.gpr[gpr::RDX] = state.gpr[gpr::RDX];
    for (number, value) in &expected.msrs {
        assert_eq!(state.msrs.get(number), Some(value), "model-specific register {number:#x}");
    }
    expected.msrs.clone_from(&state.msrs);
    expected.local_apic.clone_from(&state.local_apic);
    assert_eq!(*state, expected);
    machine.run_to_end();
    let CpuState::X86_64(state) = machine.vcpus[0].state().unwrap() else { panic!("another architecture's state") };
    assert_eq!(state.gpr[gpr::RCX], 0x1234);
    // Reset again, by hand.
    machine.vcpus[0].set_state(&CpuState::X86_64(Box::new(x86_64::CpuState::reset(0)))).unwrap();
    machine.run_to_end();
    Ok(())
}

/// Addresses are translated as the processor would; here virtual and physical ones are the same.
pub(crate) fn translation_of_addresses(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    assert_eq!(machine.vcpus[0].translate(data + 0x123).unwrap(), Some(data + 0x123));
    if machine.architecture == accel::Architecture::Riscv64 {
        translation_through_sv39(&mut machine);
    } else {
        assert_eq!(machine.vcpus[0].translate(1 << 32).unwrap(), None, "not mapped");
        assert_eq!(machine.vcpus[0].translate(1 << 63).unwrap(), None, "not canonical");
    }
    Ok(())
}

/// riscv64: supervisor and user mode translate by their page tables, with their permissions.
fn translation_through_sv39(machine: &mut Machine) {
    const SUPERVISOR: u8 = 1;
    const USER: u8 = 0;
    let tables = machine.layout.data;
    let pointer = |address: u64| (address >> 12) << 10;
    // One pointer a level, and at the last level: valid, readable, accessed; the second page for user mode as well.
    machine.write(tables, &(pointer(tables + 0x1000) | 1).to_le_bytes());
    machine.write(tables + 0x1000, &(pointer(tables + 0x2000) | 1).to_le_bytes());
    machine.write(tables + 0x2000, &(pointer(0x8000_5000) | 0x43).to_le_bytes());
    machine.write(tables + 0x2008, &(pointer(0x8000_7000) | 0x53).to_le_bytes());
    for (privilege, expected) in
        [(SUPERVISOR, [Some(0x8000_5123), None, None]), (USER, [None, Some(0x8000_7123), None])]
    {
        let mut state = machine.vcpus[0].state().unwrap();
        if let CpuState::Riscv64(state) = &mut state {
            state.privilege = privilege;
            state.satp = 8 << 60 | tables >> 12;
            // All of memory, to every mode: naturally aligned, read, write, execute.
            state.pmpcfg[0] = 0x1f;
            state.pmpaddr[0] = u64::MAX >> 10;
        }
        machine.vcpus[0].set_state(&state).unwrap();
        let found = [0x123, 0x1123, 0x2123].map(|address| machine.vcpus[0].translate(address).unwrap());
        assert_eq!(found, expected, "privilege {privilege}");
    }
}

/// The state of the backend's controllers can be read, written and read back, in another machine, too.
pub(crate) fn the_state_of_controllers_is_read_back(subject: &Subject) -> Outcome {
    let new = || {
        let machine = Machine::without_processors(subject);
        machine.accelerator.create_interrupt_controller().map(|()| machine)
    };
    let Ok(first) = new() else {
        let refused = Machine::new(subject, 1).accelerator.interrupt_controller_state();
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
        return Ok(());
    };
    let ControllerState::Pc(mut state) = first.accelerator.interrupt_controller_state().unwrap();
    state.pics[0].imr = 0xa5;
    state.pics[0].vector_base = 0x20;
    state.pics[1].vector_base = 0x28;
    state.pics[1].automatic_eoi = true;
    state.io_apic.id = 3;
    state.io_apic.selected = 0x12;
    // Masked, level-triggered, to vector 0x55 of processor 2.
    state.io_apic.redirection[9] = 2 << 56 | 1 << 16 | 1 << 15 | 0x55;
    state.pit.channels[2].mode = 3;
    state.pit.channels[2].count = 0x1234;
    state.pit.channels[2].gate = true;
    let text = serde_json::to_string(&ControllerState::Pc(state.clone())).unwrap();
    let state_of = |machine: &Machine| {
        let ControllerState::Pc(mut state) = machine.accelerator.interrupt_controller_state().unwrap();
        // Time passes.
        state.pit.channels.iter_mut().for_each(|channel| channel.elapsed = 0);
        state
    };
    state.pit.channels.iter_mut().for_each(|channel| channel.elapsed = 0);
    for machine in [first, new().unwrap()] {
        machine.accelerator.set_interrupt_controller_state(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(state_of(&machine), state);
    }
    Ok(())
}
