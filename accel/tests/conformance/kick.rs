//! Getting a processor out of `run` from another thread.

use std::time::{Duration, Instant};

use accel::Exit;

use crate::machine::{LONG, Machine, run_guarded};
use crate::program::Width;
use crate::subject::{Outcome, Subject};

/// A kick ends the run of a busy processor.
pub(crate) fn kick_of_a_running_processor(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let mut program = machine.program();
    program.spin();
    machine.load(&program);
    let (bus, handle) = (machine.bus.clone(), machine.vcpus[0].handle());
    for _ in 0..10 {
        let vcpu = &mut machine.vcpus[0];
        let latency = std::thread::scope(|scope| {
            let run = scope.spawn(|| (run_guarded(vcpu.as_mut(), &bus), Instant::now()));
            std::thread::sleep(Duration::from_millis(5));
            let kicked = Instant::now();
            handle.kick();
            let (exit, returned) = run.join().unwrap();
            assert_eq!(exit, Exit::Kicked);
            returned.saturating_duration_since(kicked)
        });
        assert!(latency < LONG, "a guard against hangs only: {latency:?}");
    }
    assert_eq!(machine.vcpus[0].state().unwrap().program_counter(), machine.layout.code);
    Ok(())
}

/// Kicks of a processor that does not run end its next run before the first instruction; several count as one.
pub(crate) fn kick_before_the_run(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let data = machine.layout.data;
    let mut program = machine.program();
    program.set(7).store(Width::Eight, data).done();
    machine.load(&program);
    let handle = machine.vcpus[0].handle();
    for _ in 0..3 {
        handle.kick();
    }
    assert_eq!(machine.run(), Exit::Kicked);
    assert_eq!(machine.vcpus[0].state().unwrap().program_counter(), program.origin());
    assert_eq!(machine.read_u64(data), 0);
    machine.run_to_end();
    assert_eq!(machine.read_u64(data), 7);
    Ok(())
}

/// No kick is lost, whenever it comes: each is answered by an exit.
pub(crate) fn no_kick_is_lost(subject: &Subject) -> Outcome {
    const KICKS: u32 = 500;
    let mut machine = Machine::new(subject, 1);
    let mut program = machine.program();
    program.spin();
    machine.load(&program);
    let (bus, handle) = (machine.bus.clone(), machine.vcpus[0].handle());
    let (exited, exits) = std::sync::mpsc::channel();
    let vcpu = &mut machine.vcpus[0];
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..KICKS {
                exited.send(vcpu.run(bus.as_ref())).unwrap();
            }
        });
        for number in 0..KICKS {
            // At different distances from the last exit.
            for _ in 0..(number % 50) * 20 {
                std::hint::spin_loop();
            }
            handle.kick();
            match exits.recv_timeout(LONG) {
                Ok(exit) => assert_eq!(exit, Exit::Kicked),
                Err(_) => {
                    // Let the thread end, so that the failure is seen.
                    (0..KICKS).for_each(|_| {
                        handle.kick();
                        std::thread::sleep(Duration::from_millis(1));
                    });
                    panic!("kick {number} was lost");
                }
            }
        }
    });
    Ok(())
}
