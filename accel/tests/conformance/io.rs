//! Accesses that devices answer, and accesses that nobody answers.

use accel::memory::{MemorySlot, PAGE_SIZE, allocate};
use accel::{AddressSpace, Architecture, Exit};
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::bus::{Access, NOTHING, PATTERN};
use crate::machine::Machine;
use crate::program::Width;
use crate::subject::{Outcome, Subject};

/// Reads and writes of each width reach the bus once, with their address, width and value.
pub(crate) fn memory_mapped_io_of_each_width(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (device, data) = (machine.layout.device, machine.layout.data);
    let mut program = machine.program();
    let value = 0xf1e2_d3c4_b5a6_9788;
    for (n, width) in (0..).zip(Width::ALL) {
        program.set(value).store(width, device + 0x100 + 8 * n);
        program.set(u64::MAX).load(width, device + PATTERN).store(Width::Eight, data + 8 * n);
    }
    program.done();
    machine.load(&program);
    machine.run_to_end();
    let mut expected = Vec::new();
    for (n, width) in (0..).zip(Width::ALL) {
        let access = |address, written| Access { space: AddressSpace::Memory, address, written, width: width.bytes() };
        expected.push(access(device + 0x100 + 8 * n, Some(value.to_le_bytes()[..width.bytes()].to_vec())));
        expected.push(access(device + PATTERN, None));
        assert_eq!(machine.read_u64(data + 8 * n), width.truncate(0x1716_1514_1312_1110), "{width:?}");
    }
    assert_eq!(machine.bus.take_log(), expected);
    Ok(())
}

/// Read-only memory can be read and executed; a write goes to the bus and changes nothing.
pub(crate) fn read_only_memory(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (extra, data) = (machine.layout.extra, machine.layout.data);
    let rom = allocate(extra, PAGE_SIZE).unwrap();
    rom.write_obj(0x1122_3344_5566_7788_u64, MemoryRegionAddress(0)).unwrap();
    let mut routine = crate::program::Program::new(machine.architecture, extra + 0x100);
    routine.set(77).end_routine();
    rom.write_slice(routine.bytes(), MemoryRegionAddress(0x100)).unwrap();
    machine.accelerator.map_memory(MemorySlot { region: rom.clone(), read_only: true }).unwrap();
    let mut program = machine.program();
    program.set(0xabcd).store(Width::Two, extra + 2);
    program.load(Width::Eight, extra).store(Width::Eight, data);
    program.call(extra + 0x100).store(Width::Eight, data + 8).done();
    machine.load(&program);
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 0x1122_3344_5566_7788);
    assert_eq!(machine.read_u64(data + 8), 77);
    let written = Some(vec![0xcd, 0xab]);
    let write = Access { space: AddressSpace::Memory, address: extra + 2, written, width: 2 };
    assert_eq!(machine.bus.take_log(), [write]);
    assert_eq!(rom.read_obj::<u64>(MemoryRegionAddress(0)).unwrap(), 0x1122_3344_5566_7788);
    Ok(())
}

/// Where nothing answers, x86-64 reads all ones and loses writes; riscv64 takes an access fault.
pub(crate) fn unmapped_access(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (nowhere, data) = (machine.layout.device + NOTHING, machine.layout.data);
    match machine.architecture {
        Architecture::X86_64 => {
            let mut program = machine.program();
            for (n, width) in (0..).zip(Width::ALL) {
                program.set(0).store(width, nowhere).load(width, nowhere).store(Width::Eight, data + 8 * n);
            }
            program.done();
            machine.load(&program);
            machine.run_to_end();
            for (n, width) in (0..).zip(Width::ALL) {
                assert_eq!(machine.read_u64(data + 8 * n), width.truncate(u64::MAX), "{width:?}");
            }
        }
        Architecture::Riscv64 => {
            let mut handler = crate::program::Program::new(machine.architecture, machine.layout.handler);
            handler.done();
            machine.load(&handler);
            // 5 and 7: load and store access fault.
            for (is_store, cause) in [(false, 5), (true, 7)] {
                let mut program = machine.program();
                program.address(nowhere);
                let at = program.here();
                if is_store {
                    program.store_there(Width::Four)
                } else {
                    program.load_there(Width::Four)
                };
                program.spin();
                machine.load(&program);
                let mut state = machine.vcpus[0].state().unwrap();
                if let accel::state::CpuState::Riscv64(state) = &mut state {
                    state.pc = machine.layout.code;
                }
                machine.vcpus[0].set_state(&state).unwrap();
                assert_eq!(machine.run(), Exit::Kicked);
                let accel::state::CpuState::Riscv64(state) = machine.vcpus[0].state().unwrap() else {
                    panic!("the state of another architecture");
                };
                assert_eq!((state.mcause, state.mepc, state.mtval), (cause, at, nowhere));
            }
        }
    }
    Ok(())
}

/// x86-64: of an access across the end of RAM, memory gets its part and the bus the rest.
pub(crate) fn access_across_the_end_of_memory(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (extra, data) = (machine.layout.extra, machine.layout.data);
    let region = allocate(extra, PAGE_SIZE).unwrap();
    machine.accelerator.map_memory(MemorySlot { region: region.clone(), read_only: false }).unwrap();
    let end = extra + PAGE_SIZE;
    let mut program = machine.program();
    program.set(0x8877_6655_4433_2211).store(Width::Eight, end - 3);
    program.load(Width::Eight, end - 3).store(Width::Eight, data).done();
    machine.load(&program);
    machine.run_to_end();
    assert_eq!(region.read_obj::<[u8; 3]>(MemoryRegionAddress(PAGE_SIZE - 3)).unwrap(), [0x11, 0x22, 0x33]);
    assert_eq!(machine.read_u64(data), 0xffff_ffff_ff33_2211, "nobody answers the rest");
    let log = machine.bus.take_log();
    let (writes, reads): (Vec<_>, Vec<_>) = log.into_iter().partition(|access| access.written.is_some());
    let mut next = end;
    for access in &writes {
        assert_eq!(access.address, next);
        assert!([1, 2, 4].contains(&access.width), "{access:?}");
        next += access.width as u64;
    }
    assert_eq!(next, end + 5);
    let written: Vec<u8> = writes.into_iter().flat_map(|access| access.written.unwrap()).collect();
    assert_eq!(written, [0x44, 0x55, 0x66, 0x77, 0x88]);
    assert_eq!(reads.iter().map(|access| access.width).sum::<usize>(), 5);
    Ok(())
}

/// x86-64: instructions that KVM's emulator does not know reach devices all the same, and the guest goes on: a double compare
/// and exchange, a vector load and a vector store.
pub(crate) fn unusual_instructions_reach_devices(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (device, data) = (machine.layout.device, machine.layout.data);
    let mut program = machine.program();
    // lock cmpxchg16b [rbx]: RDX:RAX is not what the device answers, so these take its value.
    program.set(0).raw(&[0x31, 0xd2]).address(device + PATTERN).raw(&[0xf0, 0x48, 0x0f, 0xc7, 0x0b]);
    // setz cl; the halves
    program.raw(&[0x0f, 0x94, 0xc1]).store(Width::Eight, data).raw(&[0x48, 0x89, 0xd0]).store(Width::Eight, data + 8);
    program.raw(&[0x48, 0x0f, 0xb6, 0xc1]).store(Width::Eight, data + 16);
    // movq xmm0, rax; punpcklqdq xmm0, xmm0; phaddd xmm0, [rbx]; movq rax, xmm0
    program.set(0x5_0000_0003).address(device + PATTERN);
    program.raw(&[0x66, 0x48, 0x0f, 0x6e, 0xc0, 0x66, 0x0f, 0x6c, 0xc0, 0x66, 0x0f, 0x38, 0x02, 0x03]);
    program.raw(&[0x66, 0x48, 0x0f, 0x7e, 0xc0]).store(Width::Eight, data + 24);
    // pextrq [rbx], xmm0, 1
    program.address(device + 0x100).raw(&[0x66, 0x48, 0x0f, 0x3a, 0x16, 0x03, 0x01]);
    program.done();
    machine.load(&program);
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 0x1716_1514_1312_1110);
    assert_eq!(machine.read_u64(data + 8), 0x1f1e_1d1c_1b1a_1918);
    assert_eq!(machine.read_u64(data + 16), 0, "nothing was exchanged");
    assert_eq!(machine.read_u64(data + 24), 0x0000_0008_0000_0008);
    let sum = |first: u32, second: u32| u64::from(first.wrapping_add(second));
    let expected = sum(0x1312_1110, 0x1716_1514) | sum(0x1b1a_1918, 0x1f1e_1d1c) << 32;
    let log = machine.bus.take_log();
    let stored =
        log.iter().rev().find_map(|access| access.written.clone().filter(|_| access.address == device + 0x100));
    assert_eq!(stored, Some(expected.to_le_bytes().to_vec()), "{log:?}");
    if machine.accelerator.name() == "kvm" {
        assert!(machine.accelerator.interpreted_instructions() >= 1, "KVM's emulator knew all of them");
    }
    Ok(())
}
