//! Local APICs against the SDM, through the buses of their processors.

use super::*;
use accel::Msi;
use accel::state::x86_64::CpuState;
use std::time::Duration;

/// A processor that remembers what it is told.
#[derive(Default)]
struct Processor {
    interrupts: Mutex<bool>,
    signals: Mutex<Vec<String>>,
}

impl VcpuHandle for Processor {
    fn kick(&self) {}
    fn set_interrupt(&self, input: u32, level: bool) {
        assert_eq!(input, 0);
        *self.interrupts.lock() = level;
    }
    fn inject_nmi(&self) -> Result<(), accel::Error> {
        self.signals.lock().push("nmi".into());
        Ok(())
    }
    fn inject_smi(&self) {
        self.signals.lock().push("smi".into());
    }
    fn inject_init(&self) {
        self.signals.lock().push("init".into());
    }
    fn inject_start_up(&self, vector: u8) {
        self.signals.lock().push(format!("start {vector:#x}"));
    }
    fn is_halted(&self) -> bool {
        false
    }
}

struct NoBus;

impl IoBus for NoBus {
    fn read(&self, _: AddressSpace, _: u64, _: &mut [u8]) -> Result<(), Unmapped> {
        Err(Unmapped)
    }
    fn write(&self, _: AddressSpace, _: u64, _: &[u8]) -> Result<(), Unmapped> {
        Err(Unmapped)
    }
}

const EXTERNAL_VECTOR: u8 = 0x77;
const PAGE_ADDRESS: u64 = 0xfee0_0000;

struct Machine {
    processors: Vec<Arc<Processor>>,
    apics: Arc<LocalApics>,
    buses: Vec<Arc<dyn IoBus>>,
    clock: Arc<VirtualClock>,
    ended: Arc<Mutex<Vec<u8>>>,
}

impl Machine {
    /// With all APICs enabled by software.
    fn new(count: usize) -> Machine {
        let processors: Vec<Arc<Processor>> = (0..count).map(|_| Arc::default()).collect();
        let handles: Vec<Arc<dyn VcpuHandle>> = processors.iter().map(|processor| processor.clone() as _).collect();
        let clock = VirtualClock::new();
        let apics = LocalApics::new(&handles, &clock, 1_000_000);
        let ended: Arc<Mutex<Vec<u8>>> = Arc::default();
        let log = ended.clone();
        apics.set_end_of_interrupt(move |vector| log.lock().push(vector));
        let bus = |index| apics.processor_bus(index, Arc::new(NoBus), Arc::new(|| EXTERNAL_VECTOR)).unwrap();
        let buses: Vec<_> = (0..count as u32).map(bus).collect();
        let machine = Machine { processors, apics, buses, clock, ended };
        (0..count).for_each(|index| machine.write(index, 0xf0, 0x1ff));
        machine
    }
    fn read(&self, index: usize, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.buses[index].read(AddressSpace::Memory, PAGE_ADDRESS + offset, &mut data).unwrap();
        u32::from_le_bytes(data)
    }
    fn write(&self, index: usize, offset: u64, value: u32) {
        self.buses[index].write(AddressSpace::Memory, PAGE_ADDRESS + offset, &value.to_le_bytes()).unwrap();
    }
    fn msi(&self, address: u64, data: u32) -> bool {
        self.apics.send(&Message::from_msi(Msi { address, data }).unwrap())
    }
    fn interrupted(&self) -> Vec<bool> {
        self.processors.iter().map(|processor| *processor.interrupts.lock()).collect()
    }
    fn acknowledge(&self, index: usize) -> Option<u8> {
        self.buses[index].acknowledge_interrupt()
    }
    fn signals(&self, index: usize) -> Vec<String> {
        std::mem::take(&mut *self.processors[index].signals.lock())
    }
    fn set_x2apic(&self, index: usize) {
        let base = self.buses[index].read_local_apic(LocalApicRegister::Base).unwrap();
        self.buses[index].write_local_apic(LocalApicRegister::Base, base | 0x400).unwrap();
    }
    fn msr(&self, index: usize, number: u32) -> Option<u64> {
        self.buses[index].read_local_apic(LocalApicRegister::X2apic(number))
    }
    fn set_msr(&self, index: usize, number: u32, value: u64) -> Option<()> {
        self.buses[index].write_local_apic(LocalApicRegister::X2apic(number), value)
    }
    /// Takes all interrupts that processor `index` would take, without ending them.
    fn take_all(&self, index: usize) -> Vec<u8> {
        std::iter::from_fn(|| self.acknowledge(index)).collect()
    }
}

#[test]
fn registers_after_reset() {
    let machine = Machine::new(3);
    machine.apics.reset();
    assert_eq!((machine.read(2, 0x20), machine.read(2, 0x30), machine.read(2, 0xe0)), (2 << 24, 0x5_0014, u32::MAX));
    assert_eq!((machine.read(2, 0xf0), machine.read(2, 0x350), machine.read(2, 0x320)), (0xff, 0x1_0000, 0x1_0000));
    assert_eq!(machine.read(0, 0x350), 0x700);
    let base = |index: usize| machine.buses[index].read_local_apic(LocalApicRegister::Base);
    assert_eq!((base(0), base(1)), (Some(0xfee0_0900), Some(0xfee0_0800)));
}

#[test]
fn an_interrupt_goes_through_request_and_service_by_priority() {
    let machine = Machine::new(1);
    assert!(machine.msi(0xfee0_0000, 0x41) && machine.msi(0xfee0_0000, 0x61) && machine.msi(0xfee0_0000, 0x45));
    assert_eq!(machine.interrupted(), [true]);
    assert_eq!(machine.acknowledge(0), Some(0x61));
    assert_eq!((machine.read(0, 0x130), machine.read(0, 0x220), machine.read(0, 0xa0)), (2, 0x22, 0x60));
    assert_eq!((machine.interrupted(), machine.acknowledge(0)), (vec![false], None));
    machine.write(0, 0xb0, 0);
    assert_eq!((machine.read(0, 0xa0), machine.interrupted()), (0, vec![true]));
    assert_eq!(machine.acknowledge(0), Some(0x45));
    // 0x41 is of the same class.
    assert_eq!(machine.acknowledge(0), None);
    machine.write(0, 0xb0, 0);
    assert_eq!(machine.take_all(0), [0x41]);
    machine.write(0, 0xb0, 0);
    assert!(machine.ended.lock().is_empty());
}

#[test]
fn task_priority_holds_back_its_own_class_and_below() {
    let machine = Machine::new(1);
    let bus = &machine.buses[0];
    bus.write_local_apic(LocalApicRegister::TaskPriority, 4).unwrap();
    assert_eq!((machine.read(0, 0x80), machine.read(0, 0xa0)), (0x40, 0x40));
    machine.msi(0xfee0_0000, 0x4f);
    assert_eq!(machine.interrupted(), [false]);
    machine.msi(0xfee0_0000, 0x50);
    assert_eq!(machine.interrupted(), [true]);
    machine.write(0, 0x80, 0x52);
    assert_eq!(bus.read_local_apic(LocalApicRegister::TaskPriority), Some(5));
    assert_eq!(machine.interrupted(), [false]);
    machine.write(0, 0x80, 0);
    assert_eq!(machine.take_all(0), [0x50]);
    assert!(bus.write_local_apic(LocalApicRegister::TaskPriority, 16).is_none());
}

#[test]
fn the_end_of_a_level_triggered_interrupt_is_told() {
    let machine = Machine::new(1);
    machine.msi(0xfee0_0000, 0xc031);
    assert_eq!((machine.read(0, 0x190), machine.acknowledge(0)), (0x2_0000, Some(0x31)));
    machine.write(0, 0xb0, 0);
    assert_eq!(*machine.ended.lock(), [0x31]);
    machine.write(0, 0xb0, 0);
    assert_eq!(machine.ended.lock().len(), 1);
}

#[test]
fn logical_destinations_flat_and_in_clusters() {
    let machine = Machine::new(3);
    for (index, id) in [(0, 1), (1, 2), (2, 4)] {
        machine.write(index, 0xd0, id << 24);
    }
    machine.msi(0xfee0_5004, 0x40);
    assert_eq!(machine.interrupted(), [true, false, true]);
    machine.take_all(0);
    machine.take_all(2);
    for (index, id) in [(0, 0x11), (1, 0x12), (2, 0x21)] {
        machine.write(index, 0xe0, 0x0fff_ffff);
        machine.write(index, 0xd0, id << 24);
    }
    machine.msi(0xfee1_3004, 0x60);
    assert_eq!(machine.interrupted(), [true, true, false]);
    machine.msi(0xfeef_1004, 0x80);
    assert_eq!(machine.interrupted(), [true, true, true]);
    machine.take_all(1);
    // The lowest priority of cluster 1: processor 0 has not taken its interrupt, processor 1 serves one.
    machine.msi(0xfee1_3004, 0x190);
    assert_eq!((machine.take_all(0), machine.take_all(1)), (vec![0x90], vec![]));
}

#[test]
fn commands_reach_whom_they_name() {
    let machine = Machine::new(3);
    machine.write(1, 0x310, 2 << 24);
    machine.write(1, 0x300, 0x4050);
    assert_eq!(machine.interrupted(), [false, false, true]);
    machine.write(1, 0x300, 0x4_4051);
    assert_eq!((machine.acknowledge(1), machine.acknowledge(2)), (Some(0x51), Some(0x50)));
    machine.write(0, 0x300, 0xc_4400);
    assert_eq!(
        (machine.signals(0), machine.signals(1), machine.signals(2)),
        (vec![], vec!["nmi".into()], vec!["nmi".into()])
    );
    machine.write(0, 0x80, 0x20);
    machine.write(1, 0x80, 0x30);
    machine.write(0, 0x310, 1 << 24);
    machine.write(0, 0x300, 0xc500);
    machine.write(0, 0x300, 0x8500);
    machine.write(0, 0x300, 0x4609);
    assert_eq!(machine.signals(1), ["init", "start 0x9"]);
    assert_eq!((machine.read(1, 0x80), machine.read(1, 0xf0), machine.read(1, 0x20)), (0, 0xff, 1 << 24));
    // Delivery status is never pending.
    assert_eq!(machine.read(0, 0x300), 0x4609);
}

#[test]
fn processors_with_the_same_id_are_both_reached() {
    let machine = Machine::new(3);
    for index in [0, 2] {
        machine.write(index, 0x20, 0x0700_0000);
    }
    assert!(machine.msi(PAGE_ADDRESS | 7 << 12, 0x41));
    assert_eq!(machine.interrupted(), [true, false, true]);
    // Nobody has the id that they had.
    assert!(!machine.msi(PAGE_ADDRESS | 2 << 12, 0x41));
}

#[test]
fn system_management_interrupts_come_by_message_and_through_lint1() {
    let machine = Machine::new(2);
    assert!(machine.msi(PAGE_ADDRESS | 1 << 12, 0x0200));
    machine.write(1, 0x310, 0);
    machine.write(1, 0x300, 0x4200);
    machine.write(0, 0x360, 0x0200);
    machine.apics.set_input(LINT1, true);
    assert_eq!((machine.signals(0), machine.signals(1)), (vec!["smi".to_string(); 2], vec!["smi".to_string()]));
}

#[test]
fn errors_are_shown_by_a_write_of_the_status_and_interrupt() {
    let machine = Machine::new(1);
    machine.write(0, 0x370, 0xfe);
    machine.write(0, 0x300, 0x4_4005);
    assert_eq!((machine.read(0, 0x280), machine.take_all(0)), (0, vec![0xfe]));
    machine.write(0, 0x280, 0);
    assert_eq!(machine.read(0, 0x280), 0x20);
    assert!(!machine.msi(0xfee0_0000, 0x0f));
    assert_eq!(machine.read(0, 0x40), 0);
    machine.write(0, 0x280, 0);
    assert_eq!(machine.read(0, 0x280), 0xc0);
    machine.write(0, 0x280, 0);
    assert_eq!(machine.read(0, 0x280), 0);
}

#[test]
fn software_can_disable_it() {
    let machine = Machine::new(2);
    machine.write(1, 0x360, 0x400);
    machine.write(1, 0xf0, 0xff);
    assert_eq!(machine.read(1, 0x360), 0x1_0400);
    machine.write(1, 0x320, 0x30);
    assert_eq!(machine.read(1, 0x320), 0x1_0030, "the mask cannot go");
    assert!(!machine.msi(0xfee0_1000, 0x41));
    machine.msi(0xfee0_1000, 0x0400);
    assert_eq!(machine.signals(1), ["nmi"]);
}

#[test]
fn the_8259_comes_through_lint0_and_nmis_through_lint1() {
    let machine = Machine::new(2);
    machine.apics.set_input(LINT0, true);
    assert_eq!(machine.interrupted(), [true, false]);
    assert_eq!(machine.acknowledge(0), Some(EXTERNAL_VECTOR));
    machine.write(0, 0x350, 0x1_0700);
    assert_eq!((machine.interrupted(), machine.acknowledge(0)), (vec![false, false], None));
    machine.write(1, 0x350, 0x31);
    machine.apics.set_input(LINT0, false);
    machine.apics.set_input(LINT0, true);
    assert_eq!(machine.acknowledge(1), Some(0x31));
    machine.write(1, 0x360, 0x400);
    machine.apics.set_input(LINT1, true);
    machine.apics.set_input(LINT1, true);
    assert_eq!((machine.signals(0), machine.signals(1)), (vec![], vec!["nmi".into()]));
}

#[test]
fn the_page_moves_with_its_base_and_goes_when_it_is_disabled() {
    let machine = Machine::new(1);
    let bus = &machine.buses[0];
    let mut data = [0; 4];
    let mut at = |address| bus.read(AddressSpace::Memory, address, &mut data);
    bus.write_local_apic(LocalApicRegister::Base, 0x1000_0900).unwrap();
    assert_eq!((at(0x1000_0030), at(PAGE_ADDRESS + 0x30)), (Ok(()), Err(Unmapped)));
    bus.write_local_apic(LocalApicRegister::Base, 0xfee0_0100).unwrap();
    assert_eq!(at(0x1000_0030), Err(Unmapped));
    // Without an APIC the 8259 is wired to the processor.
    machine.apics.set_input(LINT0, true);
    assert_eq!(machine.acknowledge(0), Some(EXTERNAL_VECTOR));
    for invalid in [0xfee0_0500, 0xfee0_0d00, 0xfee0_0901, 0x100_fee0_0900, 0xfee0_0b00] {
        assert!(bus.write_local_apic(LocalApicRegister::Base, invalid).is_none(), "{invalid:#x}");
    }
    bus.write_local_apic(LocalApicRegister::Base, 0xfee0_0900).unwrap();
    assert_eq!(machine.read(0, 0xf0), 0xff);
}

#[test]
fn narrow_and_misplaced_accesses() {
    let machine = Machine::new(1);
    let bus = &machine.buses[0];
    let mut byte = [0];
    bus.read(AddressSpace::Memory, PAGE_ADDRESS + 0x32, &mut byte).unwrap();
    assert_eq!(byte, [5]);
    let mut wide = [0xff; 8];
    bus.read(AddressSpace::Memory, PAGE_ADDRESS + 0x30, &mut wide).unwrap();
    assert_eq!(u64::from_le_bytes(wide), 0x5_0014);
    bus.write(AddressSpace::Memory, PAGE_ADDRESS + 0x80, &[0xff]).unwrap();
    bus.write(AddressSpace::Memory, PAGE_ADDRESS + 0x84, &[0xff; 4]).unwrap();
    assert_eq!(machine.read(0, 0x80), 0);
    bus.read(AddressSpace::Memory, PAGE_ADDRESS + 0xffc, &mut wide).unwrap();
}

#[test]
fn x2apic_mode_has_wide_ids_and_faults() {
    let machine = Machine::new(20);
    assert!(machine.msr(18, 2).is_none());
    (0..20).for_each(|index| machine.set_x2apic(index));
    let mut data = [0; 4];
    assert!(machine.buses[18].read(AddressSpace::Memory, PAGE_ADDRESS, &mut data).is_err());
    assert_eq!((machine.msr(18, 0x02), machine.msr(18, 0x0d)), (Some(18), Some(0x1_0004)));
    // To cluster 1, members 2 and 3.
    machine.set_msr(0, 0x30, 0x0001_000c_0000_4870).unwrap();
    assert_eq!(
        (machine.acknowledge(18), machine.acknowledge(19), machine.acknowledge(2)),
        (Some(0x70), Some(0x70), None)
    );
    assert_eq!(machine.msr(0, 0x30), Some(0x0001_000c_0000_4870));
    machine.set_msr(0, 0x30, 0x0000_0013_0000_4080).unwrap();
    assert_eq!(machine.acknowledge(19), Some(0x80));
    machine.set_msr(3, 0x3f, 0x91).unwrap();
    assert_eq!(machine.acknowledge(3), Some(0x91));
    machine.set_msr(3, 0x0b, 0).unwrap();
    assert_eq!(machine.msr(3, 0x14), Some(0));
    for (number, value) in [
        (0x02, 0),
        (0x03, 0),
        (0x0b, 1),
        (0x0d, 0),
        (0x0e, 0),
        (0x08, 0x100),
        (0x28, 1),
        (0x31, 0),
        (0x39, 0),
        (0x38, 1 << 32),
        (0x30, 0x1000_0000),
        (0x100, 0),
    ] {
        assert!(machine.set_msr(3, number, value).is_none(), "{number:#x}");
    }
    for number in [0x0b, 0x0e, 0x31, 0x3f, 0x04, 0x100, u32::MAX] {
        assert!(machine.msr(3, number).is_none(), "{number:#x}");
    }
    // It is left through the disabled state only.
    let base = |value| machine.buses[3].write_local_apic(LocalApicRegister::Base, value);
    assert!(base(0xfee0_0800).is_none());
    base(0xfee0_0000).unwrap();
    base(0xfee0_0800).unwrap();
    assert_eq!(machine.read(3, 0x20), 3 << 24);
}

#[test]
fn the_timer_interrupts_once_or_again_and_again() {
    let machine = Machine::new(1);
    machine.write(0, 0x3e0, 0xb);
    machine.write(0, 0x320, 0x40);
    machine.write(0, 0x380, 1_000_000);
    machine.clock.set(400_000);
    assert_eq!(machine.read(0, 0x390), 600_000);
    machine.clock.resume();
    crate::test_support::wait_for("the timer", || machine.interrupted() == [true]);
    assert_eq!((machine.take_all(0), machine.read(0, 0x390)), (vec![0x40], 0));
    machine.write(0, 0xb0, 0);
    machine.write(0, 0x320, 0x2_0040);
    machine.write(0, 0x380, 1_000_000);
    for _ in 0..3 {
        crate::test_support::wait_for("the timer", || machine.interrupted() == [true]);
        assert_eq!(machine.take_all(0), [0x40]);
        machine.write(0, 0xb0, 0);
    }
    machine.write(0, 0x320, 0x3_0040);
    machine.take_all(0);
    machine.write(0, 0xb0, 0);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(machine.interrupted(), [false]);
}

#[test]
fn the_deadline_is_virtual_time() {
    let machine = Machine::new(1);
    let bus = &machine.buses[0];
    machine.write(0, 0x320, 0x4_0040);
    machine.clock.set(1000);
    bus.write_local_apic(LocalApicRegister::Deadline, 5_000_000).unwrap();
    assert_eq!(bus.read_local_apic(LocalApicRegister::Deadline), Some(5_000_000));
    machine.clock.resume();
    crate::test_support::wait_for("the timer", || machine.interrupted() == [true]);
    assert!(machine.clock.now() >= 5_000_000);
    assert_eq!((machine.take_all(0), bus.read_local_apic(LocalApicRegister::Deadline)), (vec![0x40], Some(0)));
    machine.write(0, 0xb0, 0);
    // In the past: at once.
    bus.write_local_apic(LocalApicRegister::Deadline, 1).unwrap();
    assert_eq!(machine.take_all(0), [0x40]);
}

#[test]
fn a_saved_state_goes_on_in_another_machine() {
    let machine = Machine::new(2);
    machine.write(1, 0x80, 0x20);
    machine.msi(0xfee0_1000, 0xc041);
    machine.msi(0xfee0_1000, 0x61);
    machine.acknowledge(1);
    machine.write(1, 0x320, 0x4_0055);
    machine.buses[1].write_local_apic(LocalApicRegister::Deadline, 7_000_000).unwrap();
    machine.clock.set(2_000_000);
    let mut state = CpuState::reset(1);
    state.msrs.insert(x86_64::msr::TSC, 100);
    let mut state = state::CpuState::X86_64(Box::new(state));
    machine.apics.save_into(1, &mut state);
    let state::CpuState::X86_64(saved) = &state else { unreachable!() };
    assert_eq!((saved.cr8, saved.msrs[&x86_64::msr::TSC_DEADLINE], saved.apic_base), (2, 5_000_100, 0xfee0_0800));
    let other = Machine::new(2);
    other.apics.load_from(1, &state);
    assert_eq!(other.buses[1].read_local_apic(LocalApicRegister::Deadline), Some(5_000_000));
    let mut again = state.clone();
    other.apics.save_into(1, &mut again);
    assert_eq!(again, state);
    assert_eq!(other.interrupted(), [false, false]);
    other.write(1, 0xb0, 0);
    assert_eq!((other.interrupted(), other.acknowledge(1)), (vec![false, true], Some(0x41)));
    other.write(1, 0xb0, 0);
    assert_eq!(*other.ended.lock(), [0x41]);
}

#[test]
fn the_reset_state_of_a_processor_can_be_loaded() {
    let machine = Machine::new(2);
    machine.apics.load_from(1, &state::CpuState::X86_64(Box::new(CpuState::reset(1))));
    assert_eq!((machine.read(1, 0x20), machine.read(1, 0xf0), machine.read(1, 0x320)), (1 << 24, 0xff, 0x1_0000));
}
