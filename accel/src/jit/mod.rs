//! The JIT backend: guest processors run by `translate`, on any host.

mod platform;
mod processor;
mod riscv64;
mod vcpu;
pub(crate) mod x86_64;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use translate::code::CodePages;
use translate::engine::{Keep, Tiers, Translator};
use translate::platform::MemoryView;
use translate::riscv64::Riscv64;
use translate::x86_64::X86_64;
use vm_memory::{Address, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

pub use translate::compile::perf_map::enable as enable_perf_map;
pub use translate::x86_64::cpuid::{CpuModel, ModelError};
pub use translate::x86_64::features::FEATURES;

use crate::clock::VirtualClock;
use crate::memory::{MemorySlot, PAGE_SIZE};
use crate::{Accelerator, Architecture, Capabilities, Error, IoEvent, Msi, Vcpu};
use processor::Processor;
use vcpu::{JitVcpu, Wake};

/// How often a block is executed before it is compiled as a part of a region.
const HOT: u32 = 256;

/// The JIT backend for one machine.
pub struct Jit {
    capabilities: Capabilities,
    shared: Arc<Shared>,
    code_pages: Arc<CodePages>,
    /// Makes a processor of the guest's architecture.
    create: Create,
}

/// What the vCPUs of one machine share.
struct Shared {
    memory: ArcSwap<MemoryMap>,
    // Lock order: alone. Guards changes of `memory`.
    changing: Mutex<()>,
    io_events: ArcSwap<Vec<(IoEvent, EventFd)>>,
    wakes: Mutex<Vec<Arc<Wake>>>,
    clock: Arc<VirtualClock>,
    /// How many vCPUs there are.
    vcpu_count: Arc<AtomicU32>,
    /// What x86-64 vCPUs are.
    model: Arc<CpuModel>,
}

/// The memory of a machine; replaced as a whole when it changes.
#[derive(Clone, Default)]
struct MemoryMap {
    /// Sorted by address.
    slots: Vec<Mapped>,
    /// What processors in system-management mode see before anything else.
    management: Option<Mapped>,
}

#[derive(Clone)]
struct Mapped {
    start: u64,
    length: u64,
    slot: MemorySlot,
    log: Arc<DirtyLog>,
}

/// Which pages of a slot vCPUs wrote to.
struct DirtyLog {
    enabled: AtomicBool,
    pages: Box<[AtomicU64]>,
}

impl Mapped {
    fn new(slot: MemorySlot) -> Result<Mapped, Error> {
        let (start, length) = (slot.region.start_addr().raw_value(), slot.region.len());
        if length == 0 || !start.is_multiple_of(PAGE_SIZE) || !length.is_multiple_of(PAGE_SIZE) {
            return Err(Error::Memory { address: start, length, problem: "is not whole pages" });
        }
        let words = (length / PAGE_SIZE).div_ceil(64) as usize;
        let log = DirtyLog {
            enabled: AtomicBool::new(false),
            pages: std::iter::repeat_with(AtomicU64::default).take(words).collect(),
        };
        Ok(Mapped { start, length, slot, log: Arc::new(log) })
    }

    /// Has `code_pages` told what others than processors write there.
    fn observe(&self, code_pages: &Arc<CodePages>) {
        let (start, code_pages) = (self.start, code_pages.clone());
        self.slot.region.get_mmap().bitmap().observe(Some(Box::new(move |offset, length| {
            code_pages.invalidate_range(start + offset as u64, length as u64);
        })));
    }

    fn end_observation(&self) {
        self.slot.region.get_mmap().bitmap().observe(None);
    }
}

impl MemoryMap {
    fn find(&self, view: MemoryView, address: u64) -> Option<&Mapped> {
        let holds = |slot: &&Mapped| address.checked_sub(slot.start).is_some_and(|offset| offset < slot.length);
        if view == MemoryView::Management
            && let Some(slot) = self.management.as_ref().filter(holds)
        {
            return Some(slot);
        }
        let next = self.slots.partition_point(|slot| slot.start <= address);
        self.slots[..next].last().filter(holds)
    }
}

/// Makes a processor by its number.
type Create = Box<dyn Fn(u32) -> (Box<dyn Vcpu>, Arc<Wake>) + Send + Sync>;

/// What makes the processors of an architecture, and where their translated code is recorded.
fn processors<P: Processor>(shared: &Arc<Shared>, tiers: Tiers, keep: Option<PathBuf>) -> (Arc<CodePages>, Create) {
    let keep = keep.map(|folder| Keep { folder, features: P::model_features(&shared.model) });
    let translator = Translator::<P>::new(tiers, keep);
    let code_pages = translator.code_pages.clone();
    let shared = shared.clone();
    let create = move |index| {
        let vcpu = JitVcpu::new(index, shared.clone(), translator.clone());
        let wake = vcpu.wake();
        (Box::new(vcpu) as Box<dyn Vcpu>, wake)
    };
    (code_pages, Box::new(create))
}

impl Jit {
    /// The JIT for guests of an architecture whose virtual time is that of `clock`.
    pub fn open(architecture: Architecture, clock: Arc<VirtualClock>) -> Result<Jit, Error> {
        Jit::with_tiers(architecture, clock, Tiers::Background(HOT))
    }

    /// As [`Jit::open`], with a say in what is compiled and when.
    pub fn with_tiers(architecture: Architecture, clock: Arc<VirtualClock>, tiers: Tiers) -> Result<Jit, Error> {
        Jit::with_model(architecture, clock, tiers, CpuModel::best(), None)
    }

    /// As [`Jit::open`], with vCPUs of a model, which counts for x86-64 guests only, and with a folder in which compiled code is kept
    /// for the next run. The folder must be the user's alone.
    pub fn open_with_model(
        architecture: Architecture,
        clock: Arc<VirtualClock>,
        model: CpuModel,
        keep: Option<PathBuf>,
    ) -> Result<Jit, Error> {
        Jit::with_model(architecture, clock, Tiers::Background(HOT), model, keep)
    }

    fn with_model(
        architecture: Architecture,
        clock: Arc<VirtualClock>,
        tiers: Tiers,
        model: CpuModel,
        keep: Option<PathBuf>,
    ) -> Result<Jit, Error> {
        let shared = Arc::new(Shared {
            memory: ArcSwap::default(),
            changing: Mutex::new(()),
            io_events: ArcSwap::default(),
            wakes: Mutex::default(),
            clock,
            vcpu_count: Arc::default(),
            model: Arc::new(model),
        });
        let (code_pages, create) = match architecture {
            Architecture::Riscv64 => processors::<Riscv64>(&shared, tiers, keep),
            Architecture::X86_64 => processors::<X86_64>(&shared, tiers, keep),
        };
        Ok(Jit {
            capabilities: Capabilities {
                architecture,
                in_kernel_interrupt_controller: false,
                single_step: true,
                breakpoints: usize::MAX,
                watchpoints: usize::MAX,
                dirty_log: true,
                most_vcpus: 512,
                system_management: architecture == Architecture::X86_64,
                time_stamp_khz: if architecture == Architecture::X86_64 { shared.model.time_stamp_khz } else { 0 },
            },
            shared,
            code_pages,
            create,
        })
    }

    /// Replaces the memory map, and returns when no vCPU uses the old one any more.
    fn change_memory(&self, change: impl FnOnce(&mut MemoryMap) -> Result<(), Error>) -> Result<(), Error> {
        let _changing = self.shared.changing.lock();
        let mut map = MemoryMap::clone(&self.shared.memory.load());
        change(&mut map)?;
        let old = self.shared.memory.swap(Arc::new(map));
        for wake in self.shared.wakes.lock().iter() {
            wake.request(translate::cpu::ATTENTION_MEMORY);
        }
        while Arc::strong_count(&old) > 1 {
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    fn log(&self, address: u64) -> Result<Arc<DirtyLog>, Error> {
        let map = self.shared.memory.load();
        let slot = map.slots.iter().chain(&map.management).find(|slot| slot.start == address);
        slot.map(|slot| slot.log.clone()).ok_or(Error::Memory { address, length: 0, problem: "is not mapped" })
    }

    fn unsupported<T>(what: &'static str) -> Result<T, Error> {
        Err(Error::Unsupported { name: "jit", what })
    }
}

impl Accelerator for Jit {
    fn name(&self) -> &'static str {
        "jit"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn map_memory(&self, slot: MemorySlot) -> Result<(), Error> {
        let mapped = Mapped::new(slot)?;
        let (start, length) = (mapped.start, mapped.length);
        self.change_memory(|map| {
            let slots = &mut map.slots;
            let next = slots.partition_point(|other| other.start <= start);
            let overlaps_before = next > 0 && start - slots[next - 1].start < slots[next - 1].length;
            let overlaps_after = slots.get(next).is_some_and(|other| other.start - start < length);
            if overlaps_before || overlaps_after {
                let problem = "overlaps memory that is mapped already";
                return Err(Error::Memory { address: start, length, problem });
            }
            mapped.observe(&self.code_pages);
            slots.insert(next, mapped);
            Ok(())
        })
    }

    fn unmap_memory(&self, address: u64) -> Result<(), Error> {
        let mut unmapped = 0;
        self.change_memory(|map| {
            let slots = &mut map.slots;
            let position = slots.iter().position(|slot| slot.start == address).ok_or(Error::Memory {
                address,
                length: 0,
                problem: "is not mapped",
            })?;
            let slot = slots.remove(position);
            slot.end_observation();
            unmapped = slot.length;
            Ok(())
        })?;
        self.code_pages.invalidate_range(address, unmapped);
        Ok(())
    }

    fn set_management_memory(&self, slot: Option<MemorySlot>) -> Result<(), Error> {
        if !self.capabilities.system_management {
            return Jit::unsupported("system-management mode of this architecture");
        }
        let mapped = slot.map(Mapped::new).transpose()?;
        let mut before = None;
        self.change_memory(|map| {
            before = std::mem::replace(&mut map.management, mapped);
            before.iter().for_each(Mapped::end_observation);
            map.management.iter().for_each(|mapped| mapped.observe(&self.code_pages));
            Ok(())
        })?;
        if let Some(before) = before {
            self.code_pages.invalidate_range(before.start, before.length);
        }
        Ok(())
    }

    fn set_dirty_logging(&self, address: u64, enabled: bool) -> Result<(), Error> {
        self.log(address)?.enabled.store(enabled, Ordering::SeqCst);
        self.code_pages.revoke_writes(None);
        Ok(())
    }

    fn dirty_log(&self, address: u64) -> Result<Vec<u64>, Error> {
        let log = self.log(address)?;
        let pages = log.pages.iter().map(|word| word.swap(0, Ordering::SeqCst)).collect();
        // The caller reads the pages after this, so writes that came between the two are not lost to it.
        self.code_pages.revoke_writes(None);
        Ok(pages)
    }

    fn create_interrupt_controller(&self) -> Result<(), Error> {
        Jit::unsupported("an interrupt controller of its own")
    }

    fn set_interrupt_line(&self, _line: u32, _level: bool) -> Result<(), Error> {
        Jit::unsupported("an interrupt controller of its own")
    }

    fn signal_msi(&self, _msi: Msi) -> Result<(), Error> {
        Jit::unsupported("an interrupt controller of its own")
    }

    fn register_io_event(&self, event: IoEvent, fd: &EventFd) -> Result<(), Error> {
        let fd = fd.try_clone().map_err(|source| Error::Host { call: "dup of an event descriptor", source })?;
        let _changing = self.shared.changing.lock();
        let mut events = copy_events(&self.shared.io_events.load())?;
        events.push((event, fd));
        self.shared.io_events.store(Arc::new(events));
        Ok(())
    }

    fn unregister_io_event(&self, event: IoEvent, _fd: &EventFd) -> Result<(), Error> {
        let _changing = self.shared.changing.lock();
        let mut events = copy_events(&self.shared.io_events.load())?;
        events.retain(|(known, _)| *known != event);
        self.shared.io_events.store(Arc::new(events));
        Ok(())
    }

    fn register_interrupt_event(&self, _line: u32, _fd: &EventFd) -> Result<(), Error> {
        Jit::unsupported("interrupt events")
    }

    fn unregister_interrupt_event(&self, _line: u32, _fd: &EventFd) -> Result<(), Error> {
        Jit::unsupported("interrupt events")
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, Error> {
        let (vcpu, wake) = (self.create)(index);
        self.shared.wakes.lock().push(wake);
        Ok(vcpu)
    }

    fn memory_changed(&self) {
        self.code_pages.invalidate_range(0, u64::MAX);
    }
}

impl Drop for Jit {
    fn drop(&mut self) {
        let map = self.shared.memory.load();
        map.slots.iter().chain(&map.management).for_each(Mapped::end_observation);
    }
}

fn copy_events(events: &[(IoEvent, EventFd)]) -> Result<Vec<(IoEvent, EventFd)>, Error> {
    let copy = |(event, fd): &(IoEvent, EventFd)| Ok((*event, fd.try_clone()?));
    let copies: std::io::Result<Vec<_>> = events.iter().map(copy).collect();
    copies.map_err(|source| Error::Host { call: "dup of an event descriptor", source })
}
