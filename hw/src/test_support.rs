//! What the tests of this crate share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use accel::memory::{GuestMemory, MemorySlot};
use accel::state::{ControllerState, CpuState, pc};
use accel::{
    Accelerator, AddressSpace, Architecture, Capabilities, DebugControl, Exit, IoBus, IoEvent, Msi, Vcpu, VcpuHandle,
};
use block::{Backend, FileOptions, Format, ImageOptions};
use futures_executor::block_on;
use host::chardev::{CharBackend, CharFrontend};
use parking_lot::{Condvar, Mutex};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryRegion};

use crate::bus::{Effect, MmioDevice, Width};
use crate::interrupt::{InterruptController, InterruptLine};
use crate::virtio::VirtioDevice;
use crate::virtio::mmio::VirtioMmio;

/// A raw image as a disk.
pub(crate) fn raw_disk(path: &std::path::Path, read_only: bool) -> Arc<Backend> {
    let file = FileOptions { read_only, ..FileOptions::default() };
    let options = ImageOptions { format: Some(Format::Raw), file, ..ImageOptions::default() };
    Backend::new(block_on(block::open(path, options)).unwrap())
}

/// Interrupt lines that remember their levels and how often they changed.
#[derive(Default)]
pub(crate) struct Lines {
    levels: Mutex<BTreeMap<u32, Line>>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Line {
    level: bool,
    rises: u32,
    falls: u32,
}

impl Lines {
    pub(crate) fn new() -> Arc<Lines> {
        Arc::default()
    }
    pub(crate) fn line(self: &Arc<Lines>, number: u32) -> InterruptLine {
        InterruptLine::new(self.clone(), number)
    }
    pub(crate) fn level(&self, number: u32) -> bool {
        self.get(number).level
    }
    /// How often line `number` rose.
    pub(crate) fn rises(&self, number: u32) -> u32 {
        self.get(number).rises
    }
    /// How often line `number` fell.
    pub(crate) fn falls(&self, number: u32) -> u32 {
        self.get(number).falls
    }
    fn get(&self, number: u32) -> Line {
        self.levels.lock().get(&number).copied().unwrap_or_default()
    }
    /// Waits until line `number` has `level`; false if it takes longer than `limit`.
    pub(crate) fn wait(&self, number: u32, level: bool, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut levels = self.levels.lock();
        while levels.get(&number).is_some_and(|line| line.level) != level {
            if self.changed.wait_until(&mut levels, deadline).timed_out() {
                return false;
            }
        }
        true
    }
}

impl InterruptController for Lines {
    fn set_input(&self, number: u32, level: bool) {
        let mut levels = self.levels.lock();
        let entry = levels.entry(number).or_default();
        entry.rises += u32::from(level && !entry.level);
        entry.falls += u32::from(entry.level && !level);
        entry.level = level;
        self.changed.notify_all();
    }
}

/// A character device whose output is kept, and that takes only so much.
pub(crate) struct TestBackend {
    state: Mutex<(Vec<u8>, usize)>,
}

impl TestBackend {
    pub(crate) fn new(room: usize) -> Arc<TestBackend> {
        Arc::new(TestBackend { state: Mutex::new((Vec::new(), room)) })
    }
    pub(crate) fn set_room(&self, room: usize) {
        self.state.lock().1 = room;
    }
    pub(crate) fn written(&self) -> Vec<u8> {
        self.state.lock().0.clone()
    }
}

impl CharBackend for TestBackend {
    fn description(&self) -> String {
        "test".into()
    }
    fn write(&self, data: &[u8]) -> usize {
        let mut state = self.state.lock();
        let taken = data.len().min(state.1);
        state.1 -= taken;
        state.0.extend(&data[..taken]);
        taken
    }
    fn connect(&self, _frontend: Arc<dyn CharFrontend>) {}
    fn accept_input(&self) {}
    fn flush(&self, _limit: Duration) {}
}

/// Guest memory of `length` bytes from address 0 on.
pub(crate) fn memory(length: u64) -> Arc<GuestMemory> {
    let region = accel::memory::allocate(0, length).unwrap();
    Arc::new(GuestMemory::from_arc_regions(vec![region]).unwrap())
}

/// A driver for a virtio device in a virtio-mmio slot, with queues and buffers in memory of its own.
pub(crate) struct Driver {
    slot: Arc<VirtioMmio>,
    memory: Arc<GuestMemory>,
    lines: Arc<Lines>,
    next_buffer: u64,
    queues: Vec<DriverQueue>,
}

#[derive(Clone, Copy, Default)]
struct DriverQueue {
    next_descriptor: u16,
    available: u16,
    seen_used: u16,
}

/// A chain that [`Driver::add`] made.
pub(crate) struct AddedChain {
    pub(crate) head: u32,
    pub(crate) writable: Vec<u64>,
}

const DRIVER_QUEUE_SIZE: u16 = 16;

/// Addresses of the three areas of a queue.
fn areas(queue: u16) -> [u64; 3] {
    let base = 0x1000 + u64::from(queue) * 0x1000;
    [base, base + 0x400, base + 0x800]
}

impl Driver {
    pub(crate) fn new(device: Arc<dyn VirtioDevice>) -> Driver {
        let (memory, lines) = (memory(0x10_0000), Lines::new());
        let queues = vec![DriverQueue::default(); device.queue_sizes().len()];
        let slot = VirtioMmio::new("driver".into(), Some(device), memory.clone(), lines.line(1));
        Driver { slot, memory, lines, next_buffer: 0x8000, queues }
    }

    pub(crate) fn register(&self, offset: u64) -> u64 {
        self.slot.read(offset, Width::Word)
    }
    pub(crate) fn set(&self, offset: u64, value: u64) {
        assert_eq!(self.slot.write(offset, Width::Word, value), Effect::None);
    }

    /// Resets the device and sets it up with all queues.
    pub(crate) fn start(&mut self) {
        self.set(0x70, 0);
        self.set(0x70, 3);
        self.set(0x24, 1);
        self.set(0x20, 1);
        self.set(0x70, 0xb);
        for queue in 0..self.queues.len() as u16 {
            let areas = areas(queue);
            self.memory.write_slice(&[0; 0x1000], GuestAddress(areas[0])).unwrap();
            self.set(0x30, u64::from(queue));
            self.set(0x38, u64::from(DRIVER_QUEUE_SIZE));
            for (register, address) in [0x80, 0x90, 0xa0].into_iter().zip(areas) {
                self.set(register, address);
            }
            self.set(0x44, 1);
            assert_eq!(self.register(0x44), 1);
            self.queues[usize::from(queue)] = DriverQueue::default();
        }
        self.set(0x70, 0xf);
        assert_eq!(self.register(0x70), 0xf);
    }

    fn descriptor(&mut self, queue: u16, address: u64, length: u32, flags: u16) -> u16 {
        let state = &mut self.queues[usize::from(queue)];
        let index = state.next_descriptor % DRIVER_QUEUE_SIZE;
        state.next_descriptor = state.next_descriptor.wrapping_add(1);
        let next = (index + 1) % DRIVER_QUEUE_SIZE;
        let mut bytes = Vec::new();
        bytes.extend(address.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.memory.write_slice(&bytes, GuestAddress(areas(queue)[0] + 16 * u64::from(index))).unwrap();
        index
    }

    fn make_available(&mut self, queue: u16, head: u16) {
        let state = &mut self.queues[usize::from(queue)];
        let ring = areas(queue)[1];
        let position = u64::from(state.available % DRIVER_QUEUE_SIZE);
        state.available = state.available.wrapping_add(1);
        let available = state.available;
        self.memory.write_slice(&head.to_le_bytes(), GuestAddress(ring + 4 + 2 * position)).unwrap();
        self.memory.write_slice(&available.to_le_bytes(), GuestAddress(ring + 2)).unwrap();
    }

    /// Makes a chain of readable and writable buffers available.
    pub(crate) fn add(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> AddedChain {
        let count = readable.len() + writable.len();
        let mut head = None;
        let mut addresses = Vec::new();
        for position in 0..count {
            let address = self.next_buffer;
            let (length, mut flags) = match readable.get(position) {
                Some(bytes) => {
                    self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
                    (bytes.len() as u32, 0)
                }
                None => {
                    addresses.push(address);
                    (writable[position - readable.len()], 2)
                }
            };
            self.next_buffer += u64::from(length).next_multiple_of(16);
            flags |= u16::from(position + 1 < count);
            let index = self.descriptor(queue, address, length, flags);
            head.get_or_insert(index);
        }
        let head = head.expect("a chain has a descriptor");
        self.make_available(queue, head);
        AddedChain { head: u32::from(head), writable: addresses }
    }

    /// Makes a chain of one arbitrary descriptor available.
    pub(crate) fn add_raw(&mut self, queue: u16, address: u64, length: u32, flags: u16) {
        let head = self.descriptor(queue, address, length, flags);
        self.make_available(queue, head);
    }

    pub(crate) fn notify(&self, queue: u16) {
        self.set(0x50, u64::from(queue));
    }

    /// Chains that came back since the last call: head and length.
    pub(crate) fn used(&mut self, queue: u16) -> Vec<(u32, u32)> {
        let ring = areas(queue)[2];
        let index: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        let state = &mut self.queues[usize::from(queue)];
        let mut used = Vec::new();
        while state.seen_used != index {
            let entry = ring + 4 + 8 * u64::from(state.seen_used % DRIVER_QUEUE_SIZE);
            let head: u32 = self.memory.read_obj(GuestAddress(entry)).unwrap();
            let length: u32 = self.memory.read_obj(GuestAddress(entry + 4)).unwrap();
            used.push((head, length));
            state.seen_used = state.seen_used.wrapping_add(1);
        }
        used
    }

    pub(crate) fn wait_used(&mut self, queue: u16) -> Vec<(u32, u32)> {
        let mut used = Vec::new();
        wait_for("a used buffer", || {
            used = self.used(queue);
            !used.is_empty()
        });
        used
    }

    pub(crate) fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
    pub(crate) fn config(&self, offset: u64, width: usize) -> u64 {
        self.slot.read(0x100 + offset, Width::from_bytes(width).unwrap())
    }
    pub(crate) fn write_config(&self, offset: u64, width: usize, value: u64) {
        assert_eq!(self.slot.write(0x100 + offset, Width::from_bytes(width).unwrap(), value), Effect::None);
    }
    pub(crate) fn device_features(&self) -> u64 {
        self.set(0x14, 1);
        let high = self.register(0x10);
        self.set(0x14, 0);
        self.register(0x10) | (high << 32)
    }
    pub(crate) fn interrupted(&self) -> bool {
        self.lines.level(1) && self.register(0x60) & 1 != 0
    }
    pub(crate) fn needs_reset(&self) -> bool {
        self.register(0x70) & 64 != 0
    }
    pub(crate) fn wait_needs_reset(&self) {
        wait_for("DEVICE_NEEDS_RESET", || self.needs_reset());
    }
}

/// Waits until `condition` holds, at most ten seconds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "ten seconds passed without {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a vCPU of a [`FakeAccelerator`] does next.
pub(crate) enum Step {
    /// Writes to the bus.
    Write(AddressSpace, u64, Vec<u8>),
    /// Leaves [`Vcpu::run`].
    Exit(Exit),
}

/// An accelerator without a CPU: a vCPU does what the test puts into its script and else waits to be kicked.
pub(crate) struct FakeAccelerator {
    capabilities: Capabilities,
    pub(crate) vcpus: Mutex<Vec<Arc<FakeHandle>>>,
    pub(crate) lines: Arc<Lines>,
    pub(crate) msis: Mutex<Vec<Msi>>,
    pub(crate) controllers_set: Mutex<u32>,
    slots: Mutex<BTreeMap<u64, bool>>,
}

/// The outside of a fake vCPU.
#[derive(Default)]
pub(crate) struct FakeHandle {
    inner: Mutex<FakeInner>,
    changed: Condvar,
}

#[derive(Default)]
struct FakeInner {
    kicked: bool,
    script: VecDeque<Step>,
    inputs: u64,
    state: Option<CpuState>,
    inside: bool,
    states_set: u32,
}

impl FakeHandle {
    pub(crate) fn push(&self, step: Step) {
        self.inner.lock().script.push_back(step);
        self.changed.notify_all();
    }
    /// Levels of the interrupt inputs, one bit each.
    pub(crate) fn inputs(&self) -> u64 {
        self.inner.lock().inputs
    }
    pub(crate) fn is_inside(&self) -> bool {
        self.inner.lock().inside
    }
    pub(crate) fn states_set(&self) -> u32 {
        self.inner.lock().states_set
    }
}

impl VcpuHandle for FakeHandle {
    fn kick(&self) {
        self.inner.lock().kicked = true;
        self.changed.notify_all();
    }
    fn set_interrupt(&self, input: u32, level: bool) {
        let mut inner = self.inner.lock();
        inner.inputs = (inner.inputs & !(1 << input)) | (u64::from(level) << input);
    }
    fn inject_nmi(&self) -> Result<(), accel::Error> {
        Err(accel::Error::Unsupported { name: "fake", what: "NMIs" })
    }
    fn is_halted(&self) -> bool {
        self.is_inside()
    }
}

struct FakeVcpu(Arc<FakeHandle>);

impl Vcpu for FakeVcpu {
    fn run(&mut self, io: &dyn IoBus) -> Exit {
        let mut inner = self.0.inner.lock();
        inner.inside = true;
        let exit = loop {
            if std::mem::take(&mut inner.kicked) {
                break Exit::Kicked;
            }
            match inner.script.pop_front() {
                Some(Step::Exit(exit)) => break exit,
                Some(Step::Write(space, address, data)) => {
                    parking_lot::MutexGuard::unlocked(&mut inner, || io.write(space, address, &data)).unwrap();
                }
                None => self.0.changed.wait(&mut inner),
            }
        };
        inner.inside = false;
        exit
    }
    fn state(&mut self) -> Result<CpuState, accel::Error> {
        Ok(self.0.inner.lock().state.clone().unwrap())
    }
    fn set_state(&mut self, state: &CpuState) -> Result<(), accel::Error> {
        let mut inner = self.0.inner.lock();
        inner.state = Some(state.clone());
        inner.states_set += 1;
        Ok(())
    }
    fn set_debug(&mut self, _debug: &DebugControl) -> Result<(), accel::Error> {
        Ok(())
    }
    /// Virtual addresses below 4 GiB are mapped to the physical ones above it.
    fn translate(&mut self, address: u64) -> Result<Option<u64>, accel::Error> {
        Ok((address < 1 << 32).then_some(address + 0x8000_0000))
    }
    fn handle(&self) -> Arc<dyn VcpuHandle> {
        self.0.clone()
    }
}

impl FakeAccelerator {
    pub(crate) fn new(architecture: Architecture) -> Arc<FakeAccelerator> {
        FakeAccelerator::with(architecture, architecture == Architecture::X86_64)
    }
    pub(crate) fn without_controllers(architecture: Architecture) -> Arc<FakeAccelerator> {
        FakeAccelerator::with(architecture, false)
    }
    fn with(architecture: Architecture, in_kernel_interrupt_controller: bool) -> Arc<FakeAccelerator> {
        let capabilities = Capabilities {
            architecture,
            in_kernel_interrupt_controller,
            single_step: false,
            breakpoints: 0,
            watchpoints: 0,
            dirty_log: false,
            most_vcpus: 8,
            system_management: false,
            time_stamp_khz: 1_000_000,
        };
        let (vcpus, msis) = (Mutex::default(), Mutex::default());
        let (controllers_set, slots) = (Mutex::default(), Mutex::default());
        Arc::new(FakeAccelerator { capabilities, vcpus, lines: Lines::new(), msis, controllers_set, slots })
    }
    /// Start of each memory slot, and whether it is read-only.
    pub(crate) fn mapped(&self) -> Vec<(u64, bool)> {
        self.slots.lock().iter().map(|(start, read_only)| (*start, *read_only)).collect()
    }
}

impl Accelerator for FakeAccelerator {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn map_memory(&self, slot: MemorySlot) -> Result<(), accel::Error> {
        let before = self.slots.lock().insert(slot.region.start_addr().raw_value(), slot.read_only);
        assert_eq!(before, None, "two slots at one address");
        Ok(())
    }
    fn unmap_memory(&self, address: u64) -> Result<(), accel::Error> {
        assert!(self.slots.lock().remove(&address).is_some(), "there is no slot at {address:#x}");
        Ok(())
    }
    fn set_dirty_logging(&self, _address: u64, _enabled: bool) -> Result<(), accel::Error> {
        Ok(())
    }
    fn dirty_log(&self, _address: u64) -> Result<Vec<u64>, accel::Error> {
        Ok(Vec::new())
    }
    fn create_interrupt_controller(&self) -> Result<(), accel::Error> {
        Ok(())
    }
    fn interrupt_controller_state(&self) -> Result<ControllerState, accel::Error> {
        let io_apic = pc::IoApic { address: 0xfec0_0000, selected: 0, id: 0, levels: 0, redirection: [0; 24] };
        let controllers = pc::Controllers { pics: Default::default(), io_apic, pit: Default::default() };
        Ok(ControllerState::Pc(Box::new(controllers)))
    }
    fn set_interrupt_controller_state(&self, _state: &ControllerState) -> Result<(), accel::Error> {
        *self.controllers_set.lock() += 1;
        Ok(())
    }
    fn set_interrupt_line(&self, line: u32, level: bool) -> Result<(), accel::Error> {
        self.lines.set_input(line, level);
        Ok(())
    }
    fn signal_msi(&self, msi: Msi) -> Result<(), accel::Error> {
        self.msis.lock().push(msi);
        Ok(())
    }
    fn register_io_event(&self, _: IoEvent, _: &vmm_sys_util::eventfd::EventFd) -> Result<(), accel::Error> {
        Ok(())
    }
    fn unregister_io_event(&self, _: IoEvent, _: &vmm_sys_util::eventfd::EventFd) -> Result<(), accel::Error> {
        Ok(())
    }
    fn register_interrupt_event(&self, _: u32, _: &vmm_sys_util::eventfd::EventFd) -> Result<(), accel::Error> {
        Ok(())
    }
    fn unregister_interrupt_event(&self, _: u32, _: &vmm_sys_util::eventfd::EventFd) -> Result<(), accel::Error> {
        Ok(())
    }
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, accel::Error> {
        let handle = Arc::new(FakeHandle::default());
        handle.inner.lock().state = Some(match self.capabilities.architecture {
            Architecture::Riscv64 => CpuState::Riscv64(Box::new(accel::state::riscv64::CpuState::reset(index))),
            Architecture::X86_64 => CpuState::X86_64(Box::new(accel::state::x86_64::CpuState::reset(index))),
        });
        self.vcpus.lock().push(handle.clone());
        Ok(Box::new(FakeVcpu(handle)))
    }
}
