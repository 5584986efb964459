//! x86-64's system-management mode: what of it moves with the state, and memory that only it sees.

use accel::memory::{MemorySlot, allocate};
use accel::state::CpuState;
use accel::state::x86_64::{CpuState as X86State, gpr};
use accel::{Error, Exit};
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::bus;
use crate::machine::Machine;
use crate::program::Width;
use crate::subject::{Outcome, Subject};

/// Not where SMBASE is after a reset.
const BASE: u64 = 0x4_0000;
const LENGTH: u64 = 0x1_0000;
const ENTRY: u64 = 0x8000;
const SAVED_RIP: u64 = 0xfe00 + 0x178;
const SMBASE: u32 = 0x9e;

fn state(machine: &mut Machine) -> X86State {
    match machine.vcpus[0].state().unwrap() {
        CpuState::X86_64(state) => *state,
        other => panic!("{other:?}"),
    }
}

/// The handler is interrupted, and goes on from a state that was read and written.
pub(crate) fn a_handler_has_memory_of_its_own(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let region = allocate(BASE, LENGTH).unwrap();
    let set = machine.accelerator.set_management_memory(Some(MemorySlot { region: region.clone(), read_only: false }));
    if !machine.accelerator.capabilities().system_management {
        assert!(matches!(set, Err(Error::Unsupported { .. })), "{set:?}");
        return Ok(());
    }
    set.unwrap();
    let device = machine.layout.device;
    // In 16-bit code with segments of 4 GiB: mov ebx, device; xor al, al; mov [ebx], al; mov cs:[0x9000], ah; rsm
    let mut handler = vec![0x66, 0xbb];
    handler.extend(((device + bus::DONE) as u32).to_le_bytes());
    handler.extend([0x30, 0xc0, 0x67, 0x88, 0x03, 0x2e, 0x88, 0x26, 0x00, 0x90, 0x0f, 0xaa]);
    region.write_slice(&handler, MemoryRegionAddress(ENTRY)).unwrap();
    let ordinary = machine.contents()[BASE as usize..][..LENGTH as usize].to_vec();
    let mut program = machine.program();
    program.nop().store(Width::Eight, machine.layout.data).done();
    machine.load(&program);
    for round in 1..=3 {
        machine.restart_at(program.origin());
        let mut before = state(&mut machine);
        before.gpr[gpr::RAX] = round << 8 | 0x5a;
        before.msrs.insert(SMBASE, BASE);
        machine.vcpus[0].set_state(&CpuState::X86_64(Box::new(before.clone()))).unwrap();
        machine.vcpus[0].handle().inject_smi();
        assert!(state(&mut machine).events.smi_pending);
        assert_eq!(machine.run(), Exit::Kicked);
        let inside = state(&mut machine);
        assert!(inside.events.in_smm && inside.events.nmi_masked && !inside.events.smi_pending, "{:?}", inside.events);
        assert_eq!((inside.msrs.get(&SMBASE), inside.cs.base), (Some(&BASE), BASE));
        machine.vcpus[0].set_state(&CpuState::X86_64(Box::new(inside.clone()))).unwrap();
        assert_eq!(state(&mut machine).events, inside.events);
        machine.run_to_end();
        // The handler's changes of registers are gone with it.
        assert_eq!(machine.read_u64(machine.layout.data), round << 8 | 0x5a);
        let after = state(&mut machine);
        assert!(!after.events.in_smm && !after.events.nmi_masked, "{:?}", after.events);
        assert_eq!(region.read_obj::<u64>(MemoryRegionAddress(SAVED_RIP)).unwrap(), program.origin());
        assert_eq!(region.read_obj::<u8>(MemoryRegionAddress(0x9000)).unwrap(), round as u8);
        assert_eq!(machine.contents()[BASE as usize..][..LENGTH as usize], ordinary);
    }
    // Without it, the mode sees what all see: an RSM.
    machine.accelerator.set_management_memory(None).unwrap();
    machine.write(BASE + ENTRY, &[0x0f, 0xaa]);
    machine.restart_at(program.origin());
    machine.vcpus[0].handle().inject_smi();
    machine.run_to_end();
    assert_eq!(machine.read_u64(BASE + SAVED_RIP), program.origin());
    Ok(())
}
