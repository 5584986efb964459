//! Single steps, breakpoints and watchpoints.

use accel::state::CpuState;
use accel::{DebugControl, DebugEvent, Exit, WatchAccess, Watchpoint};

use crate::machine::Machine;
use crate::program::{Program, Width};
use crate::subject::{Outcome, Subject};
use crate::x86;

fn control(request: impl FnOnce(&mut DebugControl)) -> DebugControl {
    let mut control = DebugControl::default();
    request(&mut control);
    control
}

fn program_counter(machine: &mut Machine) -> u64 {
    machine.vcpus[0].state().unwrap().program_counter()
}

/// Each step executes one instruction: register, memory and device accesses alike.
pub(crate) fn single_steps(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (data, device) = (machine.layout.data, machine.layout.device);
    let mut program = machine.program();
    program.set(1).address(data);
    let start = program.here();
    let mut expected = Vec::new();
    for _ in 0..5 {
        program.nop();
        expected.push(program.here());
        program.add(1);
        expected.push(program.here());
        program.store_there(Width::Eight);
        expected.push(program.here());
    }
    program.address(device + 0x100);
    let at_device = program.here();
    program.store_there(Width::Four);
    let after_device = program.here();
    program.done();
    machine.load(&program);
    let step = control(|control| control.single_step = true);
    // Steps to a place, since the number of instructions before it differs between architectures.
    machine.vcpus[0].set_debug(&step).unwrap();
    while program_counter(&mut machine) != start {
        assert_eq!(machine.run(), Exit::Debug(DebugEvent::SingleStep));
    }
    for next in expected {
        assert_eq!(machine.run(), Exit::Debug(DebugEvent::SingleStep));
        assert_eq!(program_counter(&mut machine), next);
    }
    assert_eq!(machine.read_u64(data), 6);
    while program_counter(&mut machine) != at_device {
        assert_eq!(machine.run(), Exit::Debug(DebugEvent::SingleStep));
    }
    assert_eq!(machine.bus.take_log(), []);
    assert_eq!(machine.run(), Exit::Debug(DebugEvent::SingleStep));
    assert_eq!(program_counter(&mut machine), after_device);
    assert_eq!(machine.bus.take_log().len(), 1);
    machine.vcpus[0].set_debug(&DebugControl::default()).unwrap();
    machine.run_to_end();
    Ok(())
}

/// A breakpoint stops before its instruction, in each round of a loop; a run that begins there executes it.
pub(crate) fn breakpoints(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    let mut program = machine.program();
    program.set(0).address(data);
    let mut stop = 0;
    program.repeat(3, |program| {
        program.add(1);
        stop = program.here();
        program.store_there(Width::Eight).nop();
    });
    program.done();
    machine.load(&program);
    machine.vcpus[0].set_debug(&control(|control| control.breakpoints.push(stop))).unwrap();
    for round in 0..3 {
        assert_eq!(machine.run(), Exit::Debug(DebugEvent::Breakpoint(stop)));
        assert_eq!(program_counter(&mut machine), stop);
        assert_eq!(machine.read_u64(data), round, "it is not executed yet");
    }
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 3);
    Ok(())
}

/// A run that begins at a breakpoint executes that instruction first.
pub(crate) fn a_run_that_begins_at_a_breakpoint_passes_it(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    let mut program = machine.program();
    program.set(5).store(Width::Eight, data).done();
    machine.load(&program);
    machine.vcpus[0].set_debug(&control(|control| control.breakpoints.push(program.origin()))).unwrap();
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 5);
    Ok(())
}

fn watch(machine: &mut Machine, access: WatchAccess) {
    let address = machine.layout.data + 8;
    let request = control(|control| control.watchpoints.push(Watchpoint { address, length: 8, access }));
    machine.vcpus[0].set_debug(&request).unwrap();
}

fn enter_user_mode(machine: &mut Machine) {
    let mut state = machine.vcpus[0].state().unwrap();
    if let CpuState::X86_64(state) = &mut state {
        x86::enter_user_mode(state);
    }
    machine.vcpus[0].set_state(&state).unwrap();
}

/// A watchpoint stops after an instruction that writes to it, and not for its neighbours nor for reads.
pub(crate) fn write_watchpoints(subject: &Subject) -> Outcome {
    (subject.data_breakpoints)()?;
    stop_at_write(Machine::new(subject, 1))
}

/// A watchpoint on reads stops after one.
pub(crate) fn read_watchpoints(subject: &Subject) -> Outcome {
    (subject.data_breakpoints)()?;
    stop_at_read(Machine::new(subject, 1))
}

/// x86-64: watchpoints stop user-mode programs.
pub(crate) fn watchpoints_in_user_mode(subject: &Subject) -> Outcome {
    (subject.data_breakpoints)()?;
    let mut machine = Machine::new(subject, 1);
    enter_user_mode(&mut machine);
    stop_at_write(machine)?;
    let mut machine = Machine::new(subject, 1);
    enter_user_mode(&mut machine);
    stop_at_read(machine)
}

fn stop_at_write(mut machine: Machine) -> Outcome {
    let watched = machine.layout.data + 8;
    let mut program = machine.program();
    program.set(9).store(Width::Eight, watched - 8).store(Width::Eight, watched + 8).load(Width::Eight, watched);
    program.set(3).address(watched).store_there(Width::Eight);
    let after = program.here();
    program.nop().done();
    machine.load(&program);
    watch(&mut machine, WatchAccess::Write);
    assert_eq!(machine.run(), Exit::Debug(DebugEvent::Watchpoint(watched)));
    assert_eq!(program_counter(&mut machine), after);
    assert_eq!((machine.read_u64(watched - 8), machine.read_u64(watched)), (9, 3));
    machine.run_to_end();
    Ok(())
}

fn stop_at_read(mut machine: Machine) -> Outcome {
    let watched = machine.layout.data + 8;
    let mut program = machine.program();
    program.address(watched).load_there(Width::Four);
    let after = program.here();
    program.nop().done();
    machine.load(&program);
    watch(&mut machine, WatchAccess::ReadWrite);
    assert_eq!(machine.run(), Exit::Debug(DebugEvent::Watchpoint(watched)));
    assert_eq!(program_counter(&mut machine), after);
    machine.run_to_end();
    Ok(())
}

/// x86-64: a guest that steps itself by its trap flag sees as many exceptions while it is being debugged.
pub(crate) fn a_guest_steps_itself(subject: &Subject) -> Outcome {
    let exceptions = |request: DebugControl| {
        let mut machine = Machine::new(subject, 1);
        let data = machine.layout.data;
        machine.load(&Program::handler(machine.architecture, data));
        let mut program = machine.program();
        // pushfq; or qword [rsp], 0x100; popfq
        program.raw(&[0x9c, 0x48, 0x81, 0x0c, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9d]).nop().nop().nop();
        // pushfq; and qword [rsp], !0x100; popfq
        program.raw(&[0x9c, 0x48, 0x81, 0x24, 0x24, 0xff, 0xfe, 0xff, 0xff, 0x9d]).done();
        machine.load(&program);
        machine.vcpus[0].set_debug(&request).unwrap();
        machine.run_to_end();
        machine.read_u64(data)
    };
    let alone = exceptions(DebugControl::default());
    assert_eq!(alone, 6, "one after each instruction from the first to the second POPF");
    assert_eq!(exceptions(control(|control| control.breakpoints.push(0x100_0000))), alone);
    Ok(())
}

/// More requests than the backend's capabilities promise are an error, and those that it promises are not.
pub(crate) fn debug_requests_have_a_limit(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let most = machine.accelerator.capabilities().breakpoints;
    let wanted = u64::try_from(most.min(1000)).unwrap();
    let request = |count| control(|control| control.breakpoints = (0..count).map(|n| 0x100_0000 + 4 * n).collect());
    machine.vcpus[0].set_debug(&request(wanted)).unwrap();
    if most < usize::MAX {
        assert!(machine.vcpus[0].set_debug(&request(wanted + 1)).is_err());
    }
    Ok(())
}
