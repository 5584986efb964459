//! Memory slots that come and go.

use accel::memory::{MemorySlot, PAGE_SIZE, allocate};
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::machine::{Machine, run_guarded};
use crate::program::Width;
use crate::subject::{Outcome, Subject};

/// A slot that appears answers in place of the bus; another one in its place shows its own contents; without one the bus
/// is asked again.
pub(crate) fn hot_map_and_unmap(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (extra, data) = (machine.layout.extra, machine.layout.data);
    let mut program = machine.program();
    program.load(Width::Eight, extra).store(Width::Eight, data);
    program.set(0x55).store(Width::One, extra + 8).done();
    machine.load(&program);
    for value in [0x1111_u64, 0x2222] {
        let region = allocate(extra, 4 * PAGE_SIZE).unwrap();
        region.write_obj(value, MemoryRegionAddress(0)).unwrap();
        machine.accelerator.map_memory(MemorySlot { region: region.clone(), read_only: false }).unwrap();
        for _ in 0..2 {
            machine.restart_at(program.origin());
            machine.run_to_end();
            assert_eq!(machine.read_u64(data), value);
        }
        assert_eq!(region.read_obj::<u64>(MemoryRegionAddress(8)).unwrap(), 0x55);
        assert_eq!(machine.bus.take_log(), []);
        machine.accelerator.unmap_memory(extra).unwrap();
    }
    let mut write_only = machine.program();
    write_only.set(0x66).store(Width::One, machine.layout.device + 0x100).done();
    machine.load(&write_only);
    machine.restart_at(write_only.origin());
    machine.run_to_end();
    assert_eq!(machine.bus.take_log().len(), 1);
    if machine.architecture == accel::Architecture::X86_64 {
        machine.load(&program);
        machine.restart_at(program.origin());
        machine.run_to_end();
        assert_eq!(machine.read_u64(data), u64::MAX);
        assert_eq!(machine.bus.take_log().len(), 2, "a read and a write");
    }
    Ok(())
}

/// Slots come and go while a processor runs, and it sees the one that is there.
pub(crate) fn mapping_while_a_processor_runs(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let extra = machine.layout.extra;
    let mut program = machine.program();
    program.spin();
    machine.load(&program);
    let (bus, handle, accelerator) = (machine.bus.clone(), machine.vcpus[0].handle(), machine.accelerator.clone());
    std::thread::scope(|scope| {
        let vcpu = &mut machine.vcpus[0];
        scope.spawn(|| run_guarded(vcpu.as_mut(), &bus));
        for _ in 0..20 {
            let region = allocate(extra, 4 * PAGE_SIZE).unwrap();
            accelerator.map_memory(MemorySlot { region, read_only: false }).unwrap();
            accelerator.unmap_memory(extra).unwrap();
        }
        handle.kick();
    });
    Ok(())
}

/// Slots that overlap, and addresses without a slot, are refused.
pub(crate) fn impossible_slots_are_refused(subject: &Subject) -> Outcome {
    let machine = Machine::new(subject, 1);
    let (accelerator, extra) = (&machine.accelerator, machine.layout.extra);
    let slot = |address, pages| MemorySlot { region: allocate(address, pages * PAGE_SIZE).unwrap(), read_only: false };
    accelerator.map_memory(slot(extra + 4 * PAGE_SIZE, 4)).unwrap();
    for (page, length) in [(4, 4), (0, 5), (7, 1), (5, 1), (0, 16)] {
        assert!(accelerator.map_memory(slot(extra + page * PAGE_SIZE, length)).is_err(), "{page} {length}");
    }
    accelerator.map_memory(slot(extra, 4)).unwrap();
    accelerator.map_memory(slot(extra + 8 * PAGE_SIZE, 1)).unwrap();
    assert!(accelerator.unmap_memory(extra + PAGE_SIZE).is_err());
    assert!(accelerator.set_dirty_logging(extra + PAGE_SIZE, true).is_err());
    assert!(accelerator.dirty_log(extra + PAGE_SIZE).is_err());
    accelerator.unmap_memory(extra).unwrap();
    assert!(accelerator.unmap_memory(extra).is_err());
    accelerator.map_memory(slot(extra, 1)).unwrap();
    Ok(())
}

/// A processor runs on after its accelerator is dropped, and its handle may outlive it.
pub(crate) fn parts_are_dropped_in_any_order(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    let mut program = machine.program();
    program.set(3).store(Width::Eight, data).done();
    machine.load(&program);
    let other = Machine::new(subject, 1);
    // The machine keeps running on its own accelerator's memory with only the vCPU left.
    drop(std::mem::replace(&mut machine.accelerator, other.accelerator.clone()));
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 3);
    let handle = machine.vcpus[0].handle();
    machine.vcpus.clear();
    handle.kick();
    handle.set_interrupt(machine.layout.input, true);
    handle.set_interrupt(machine.layout.input, false);
    assert!(!handle.is_halted());
    Ok(())
}
