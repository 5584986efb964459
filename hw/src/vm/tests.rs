//! The life of machines on an accelerator without a CPU.

use std::io::Write;

use accel::{AddressSpace, Exit};
use proptest::prelude::*;

use super::*;
use crate::machine::Firmware;
use crate::test_support::{FakeAccelerator, FakeHandle, Step, TestBackend, wait_for};

const TEST_FINISHER: u64 = 0x10_0000;
const UART: u64 = 0x1000_0000;

struct Fixture {
    vm: Arc<Vm>,
    accelerator: Arc<FakeAccelerator>,
    events: Arc<Mutex<Vec<Event>>>,
    clock: Arc<VirtualClock>,
    _subscription: Subscription,
}

fn fixture(change: impl FnOnce(&mut Config)) -> Fixture {
    let mut config = Config { vcpus: 2, memory: 16 << 20, ..Config::default() };
    config.boot.firmware = Firmware::None;
    change(&mut config);
    let accelerator = FakeAccelerator::new(Architecture::Riscv64);
    let clock = VirtualClock::new();
    let vm = Arc::new(Vm::new(config, accelerator.clone(), clock.clone()).unwrap());
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let log = events.clone();
    let subscription = vm.subscribe(move |event| log.lock().push(event.clone()));
    Fixture { vm, accelerator, events, clock, _subscription: subscription }
}

impl Fixture {
    fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock())
    }
    fn vcpu(&self, index: usize) -> Arc<FakeHandle> {
        self.accelerator.vcpus.lock()[index].clone()
    }
    fn wait_inside(&self) {
        wait_for("all vCPUs inside the guest", || (0..2).all(|index| self.vcpu(index).is_inside()));
    }
    fn finish(&self, command: u32) {
        self.vcpu(0).push(Step::Write(AddressSpace::Memory, TEST_FINISHER, command.to_le_bytes().to_vec()));
    }
}

#[test]
fn a_machine_starts_in_prelaunch_and_stop_and_cont_are_idempotent() {
    let fixture = fixture(|_| {});
    let vm = &fixture.vm;
    assert_eq!(vm.status(), RunState::Prelaunch);
    vm.stop().unwrap();
    assert_eq!((vm.status(), fixture.take_events()), (RunState::Prelaunch, vec![]));
    vm.cont().unwrap();
    vm.cont().unwrap();
    assert_eq!((vm.status(), fixture.take_events()), (RunState::Running, vec![Event::Resume]));
    fixture.wait_inside();
    vm.stop().unwrap();
    assert!(!fixture.vcpu(0).is_inside() && !fixture.vcpu(1).is_inside());
    let stopped_at = fixture.clock.now();
    vm.stop().unwrap();
    assert_eq!((vm.status(), fixture.take_events()), (RunState::Paused, vec![Event::Stop]));
    assert_eq!(fixture.clock.now(), stopped_at);
    vm.cont().unwrap();
    fixture.wait_inside();
    assert_eq!(fixture.take_events(), [Event::Resume]);
}

#[test]
fn processors_start_at_the_reset_vector_and_a_reset_brings_them_and_the_images_back() {
    let mut kernel = tempfile::NamedTempFile::new().unwrap();
    kernel.write_all(b"kernel bytes").unwrap();
    let fixture = fixture(|config| config.boot.kernel = Some(kernel.path().into()));
    let vm = &fixture.vm;
    assert_eq!(vm.cpu_state(1).unwrap().program_counter(), 0x1000);
    let CpuState::Riscv64(hart) = vm.cpu_state(1).unwrap() else { panic!("not a hart") };
    assert_eq!(hart.hart_id, 1);
    vm.write_physical(0x8000_0000, b"scribble");
    vm.with_vcpu(1, |vcpu| {
        let CpuState::Riscv64(mut hart) = vcpu.state()? else { panic!("not a hart") };
        hart.pc = 0x8000_0000;
        vcpu.set_state(&CpuState::Riscv64(hart))
    })
    .unwrap()
    .unwrap();
    vm.cont().unwrap();
    vm.reset(Cause::HostQmpSystemReset).unwrap();
    assert_eq!(vm.status(), RunState::Running);
    assert_eq!(fixture.take_events(), [Event::Resume, Event::Reset(Cause::HostQmpSystemReset)]);
    assert_eq!(vm.cpu_state(1).unwrap().program_counter(), 0x1000);
    let mut bytes = [0; 12];
    vm.read_physical(0x8000_0000, &mut bytes);
    assert_eq!(&bytes, b"kernel bytes");
    vm.stop().unwrap();
    vm.reset(Cause::HostQmpSystemReset).unwrap();
    assert_eq!(vm.status(), RunState::Paused);
}

#[test]
fn a_guest_that_switches_off_ends_the_machine_with_its_status() {
    for (command, cause, status) in [(0x5555, Cause::GuestShutdown, 0), (0x0003_3333, Cause::GuestPanic, 3)] {
        let fixture = fixture(|_| {});
        fixture.vm.cont().unwrap();
        fixture.finish(command);
        assert_eq!(fixture.vm.wait_for_exit_at_most(Duration::from_secs(10)), Some(status));
        assert_eq!(fixture.take_events(), [Event::Resume, Event::Shutdown(cause)]);
        assert!(matches!(fixture.vm.cont(), Err(Error::Ended)));
        assert!(matches!(fixture.vm.cpu_state(0), Err(Error::Ended)));
    }
}

#[test]
fn with_no_shutdown_a_guest_that_switches_off_stays_until_a_reset() {
    let fixture = fixture(|config| config.no_shutdown = true);
    let vm = &fixture.vm;
    vm.cont().unwrap();
    fixture.finish(0x5555);
    wait_for("run state shutdown", || vm.status() == RunState::Shutdown);
    assert!(matches!(vm.cont(), Err(Error::NeedsReset)));
    assert_eq!(fixture.take_events(), [Event::Resume, Event::Shutdown(Cause::GuestShutdown), Event::Stop]);
    vm.reset(Cause::HostQmpSystemReset).unwrap();
    assert_eq!(vm.status(), RunState::Paused);
    vm.cont().unwrap();
    fixture.wait_inside();
    vm.quit(Cause::HostQmpQuit).unwrap();
    assert_eq!(vm.wait_for_exit(), 0);
    let events = [Event::Reset(Cause::HostQmpSystemReset), Event::Resume, Event::Shutdown(Cause::HostQmpQuit)];
    assert_eq!(fixture.take_events(), events);
}

#[test]
fn a_guest_reset_restarts_all_processors_or_ends_with_no_reboot() {
    let running = fixture(|_| {});
    running.vm.cont().unwrap();
    let before = running.vcpu(1).states_set();
    running.finish(0x7777);
    wait_for("the reset", || running.events.lock().contains(&Event::Reset(Cause::GuestReset)));
    running.wait_inside();
    assert_eq!(running.vcpu(1).states_set(), before + 1);
    assert_eq!(running.vm.status(), RunState::Running);

    let ending = fixture(|config| config.no_reboot = true);
    ending.vm.cont().unwrap();
    ending.finish(0x7777);
    assert_eq!(ending.vm.wait_for_exit(), 0);
    assert_eq!(ending.take_events(), [Event::Resume, Event::Shutdown(Cause::GuestReset)]);
}

#[test]
fn a_guest_that_asks_for_resets_without_end_does_not_fill_the_channel() {
    let fixture = fixture(|_| {});
    for _ in 0..10_000 {
        fixture.finish(0x7777);
    }
    fixture.vm.cont().unwrap();
    wait_for("a reset", || fixture.events.lock().contains(&Event::Reset(Cause::GuestReset)));
    fixture.vm.stop().unwrap();
    fixture.vm.quit(Cause::HostQmpQuit).unwrap();
}

#[test]
fn an_internal_error_stops_the_machine_until_a_reset() {
    let fixture = fixture(|_| {});
    let vm = &fixture.vm;
    vm.cont().unwrap();
    fixture.vcpu(1).push(Step::Exit(Exit::InternalError("cannot".into())));
    wait_for("run state internal-error", || vm.status() == RunState::InternalError);
    assert!(matches!(vm.cont(), Err(Error::NeedsReset)));
    assert_eq!(vm.last_internal_error(), Some((1, "cannot".into())));
    assert_eq!(fixture.take_events(), [Event::Resume, Event::Stop]);
    vm.reset(Cause::HostQmpSystemReset).unwrap();
    vm.cont().unwrap();
    fixture.wait_inside();
}

#[test]
fn a_debug_event_stops_the_machine_and_cont_goes_on() {
    let fixture = fixture(|_| {});
    let vm = &fixture.vm;
    vm.cont().unwrap();
    fixture.vcpu(0).push(Step::Exit(Exit::Debug(DebugEvent::Breakpoint(0x1234))));
    wait_for("run state debug", || vm.status() == RunState::Debug);
    assert_eq!(vm.last_debug_event(), Some((0, DebugEvent::Breakpoint(0x1234))));
    vm.cont().unwrap();
    fixture.wait_inside();
}

#[test]
fn powerdown_says_that_the_board_has_no_button() {
    let fixture = fixture(|_| {});
    assert!(!fixture.vm.powerdown().unwrap());
    assert_eq!(fixture.take_events(), [Event::Powerdown]);
}

#[test]
fn processors_are_reached_while_running_and_while_stopped() {
    let fixture = fixture(|_| {});
    let vm = &fixture.vm;
    assert_eq!(vm.with_vcpu(0, |_| 7).unwrap(), 7);
    vm.cont().unwrap();
    fixture.wait_inside();
    assert_eq!(vm.with_vcpu(1, |_| 8).unwrap(), 8);
    fixture.wait_inside();
    let error = vm.with_vcpu(2, |_| ()).unwrap_err().to_string();
    assert!(error.contains("CPUs 0 to 1"), "{error}");
    let cpus = vm.cpus();
    assert_eq!(cpus.iter().map(|cpu| cpu.index).collect::<Vec<_>>(), [0, 1]);
    assert_ne!(cpus[0].thread_id, cpus[1].thread_id);
    assert!(vm.inject_nmi().is_err());
}

#[test]
fn memory_is_read_and_written_by_physical_and_virtual_address() {
    let fixture = fixture(|_| {});
    let vm = &fixture.vm;
    vm.write_virtual(0, 0xffe, b"crossing").unwrap();
    let mut bytes = [0; 8];
    vm.read_physical(0x8000_0ffe, &mut bytes);
    assert_eq!(&bytes, b"crossing");
    vm.read_virtual(0, 0xffe, &mut bytes).unwrap();
    assert_eq!(&bytes, b"crossing");
    assert!(matches!(vm.read_virtual(0, 0xffff_fffc, &mut [0; 8]), Err(Error::NotMapped(0x1_0000_0000))));
    let mut bytes = [0xff; 4];
    vm.read_physical(0x7fff_fffe, &mut bytes);
    assert_eq!(&bytes[..2], [0, 0]);
    vm.read_physical(u64::MAX - 1, &mut bytes);
    assert_eq!(bytes, [0; 4]);
    vm.write_physical(u64::MAX - 1, &[1; 4]);
}

#[test]
fn devices_reach_the_host_and_a_dropped_machine_ends() {
    let backend = TestBackend::new(100);
    let fixture = fixture(|config| config.serial.push(backend.clone()));
    fixture.vm.cont().unwrap();
    for byte in b"hi" {
        fixture.vcpu(0).push(Step::Write(AddressSpace::Memory, UART, vec![*byte]));
    }
    wait_for("output", || backend.written() == b"hi");
    let core = Arc::downgrade(&fixture.vm.core);
    drop(fixture);
    wait_for("the end of all threads", || core.strong_count() == 0);
}

#[test]
fn a_machine_that_cannot_be_built_says_why() {
    let build = |config| {
        let accelerator = FakeAccelerator::new(Architecture::Riscv64);
        Vm::new(config, accelerator, VirtualClock::new()).err().unwrap().to_string()
    };
    let error = build(Config { vcpus: 9, ..Config::default() });
    assert!(error.contains("1 to 8 CPUs, not 9"), "{error}");
    let error = build(Config { machine: "pc".into(), ..Config::default() });
    assert!(error.contains("\"pc\"") && error.contains("virt"), "{error}");
}

#[test]
fn requests_from_many_threads_at_once_leave_a_consistent_machine() {
    let fixture = fixture(|_| {});
    std::thread::scope(|scope| {
        for number in 0..6 {
            let fixture = &fixture;
            scope.spawn(move || {
                for round in 0..50 {
                    match (number + round) % 5 {
                        0 => fixture.vm.stop().unwrap(),
                        1 => fixture.vm.cont().unwrap(),
                        2 => fixture.vm.reset(Cause::HostQmpSystemReset).unwrap(),
                        3 => drop(fixture.vm.cpu_state(number % 2).unwrap()),
                        _ => fixture.finish(0x7777),
                    }
                }
            });
        }
    });
    fixture.vm.stop().unwrap();
    assert!(!fixture.vcpu(0).is_inside() && !fixture.vcpu(1).is_inside());
    // STOP and RESUME alternate, whatever the threads did.
    let events = fixture.take_events();
    let running: Vec<bool> = events
        .iter()
        .filter(|event| matches!(event, Event::Stop | Event::Resume))
        .map(|event| *event == Event::Resume)
        .collect();
    assert!(running.iter().enumerate().all(|(position, resumed)| *resumed == (position % 2 == 0)), "{events:?}");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // All but the first find the machine ended.
                let _ = fixture.vm.quit(Cause::HostQmpQuit);
            });
        }
    });
    assert_eq!(fixture.vm.wait_for_exit(), 0);
}

proptest! {
    #[test]
    fn pages_cover_every_byte_once_and_never_cross(address in any::<u64>(), length in 0usize..20_000) {
        let mut next = 0;
        for_pages(address, length, |here, range| {
            assert_eq!((range.start, here), (next, address + range.start as u64));
            assert!(here / PAGE_SIZE == (here + (range.len() as u64 - 1)) / PAGE_SIZE);
            next = range.end;
        });
        prop_assert!(next == length || address.checked_add(next as u64).is_none());
    }
}
