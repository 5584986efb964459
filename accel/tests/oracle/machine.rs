//! A machine for user-mode programs of one processor, on each of the backends: page tables, descriptor tables and exception
//! handlers that report their vector to a port.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use accel::clock::VirtualClock;
use accel::jit::Jit;
use accel::kvm::Kvm;
use accel::memory::{MemorySlot, Region, allocate};
use accel::state::CpuState as AnyState;
use accel::state::x86_64::{Activity, CpuState, DescriptorTable, Float80, Fpu, Segment, cr0, cr4, efer, gpr};
use accel::{Accelerator, AddressSpace, Architecture, Error, Exit, IoBus, Unmapped, Vcpu, VcpuHandle};
use parking_lot::Mutex;
use translate::engine::Tiers;
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::program::INT3;
use crate::random::Random;

/// Where programs are: two pages that user mode may read and execute.
pub(crate) const CODE: u64 = 0x1_0000;
pub(crate) const CODE_END: u64 = 0x1_2000;
/// What programs work on. Nothing is mapped before it, and a page that may only be read comes behind.
pub(crate) const DATA: u64 = 0x2_0000;
pub(crate) const DATA_END: u64 = 0x2_3000;
const READ_ONLY_END: u64 = 0x2_4000;
/// The stack, with nothing mapped around it.
pub(crate) const STACK: u64 = 0x3_0000;
pub(crate) const STACK_END: u64 = 0x3_2000;
/// Where programs begin to push.
pub(crate) const STACK_POINTER: u64 = STACK + 0x1000;
/// Bases of FS and GS.
pub(crate) const FS_BASE: u64 = 0x1_8010;
pub(crate) const GS_BASE: u64 = 0xffff_ffff_ffff_8000;

/// Bytes of data and stack.
const MEMORY: u64 = DATA_END - DATA + STACK_END - STACK;
const RAM: u64 = 0x8_0000;
/// The code segments of programs that are not 64-bit code, full of INT3.
const LEGACY_CODE: u64 = 0x4_0000;
/// Their data segments, with nothing mapped around them.
const LEGACY_DATA: u64 = 0x6_0000;
/// Length of both.
pub(crate) const LEGACY_LENGTH: u64 = 0x1_0000;
/// The first selector of their segments, which are in the local descriptor table, in the order of [`legacy_segment`].
const LEGACY_SELECTOR: u16 = 7;
pub(crate) const LEGACY_SEGMENTS: u16 = 6;
const LDT: u64 = 0x7800;
const PAGE_TABLES: u64 = 0x1000;
const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;
const TASK_STATE: u64 = 0x7000;
const HANDLERS: u64 = 0x8000;
const KERNEL_STACK: u64 = 0xa000;
const KERNEL_CODE: u16 = 8;
const USER_DATA: u16 = 24 | 3;
const USER_CODE: u16 = 32 | 3;
const VECTORS: u64 = 32;
/// The vector of INT3, with which programs end.
pub(crate) const END: u8 = 3;
/// The vector of INTO.
const OVERFLOW: u8 = 4;
const PAGE_FAULT: u8 = 14;
/// Vectors that push an error code.
const WITH_ERROR_CODE: [u8; 6] = [8, 10, 11, 12, 13, 14];
/// Alignment checks, which have one, too.
const ALIGNMENT_CHECK: u8 = 17;

const USER: u64 = 7 | 0x60;
const USER_READ: u64 = 5 | 0x60;
const SUPERVISOR: u64 = 3 | 0x60;

/// Segment registers of a program that is not 64-bit code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segments {
    pub(crate) cs: Segment,
    pub(crate) ss: Segment,
    pub(crate) ds: Segment,
    pub(crate) es: Segment,
}

/// What a program starts with.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) gpr: [u64; 16],
    pub(crate) rflags: u64,
    pub(crate) fpu: Fpu,
    pub(crate) alignment_checks: bool,
    /// The contents of the data pages and, behind them, of the stack; with [`Start::legacy`] of its data segments.
    pub(crate) memory: Vec<u8>,
    /// The segments of a program that is not 64-bit code.
    pub(crate) legacy: Option<Segments>,
}

impl Start {
    /// `pool`: [`Start::pool`].
    pub(crate) fn random(random: &mut Random, pool: &[u8]) -> Start {
        let mut gpr = [0; 16];
        for register in &mut gpr {
            *register = if random.once_in(4) { DATA + random.below(0x3000) } else { random.integer() };
        }
        gpr[gpr::RSP] = STACK_POINTER;
        // The arithmetic flags and DF; now and then AC.
        let alignment_checks = random.once_in(24);
        let mut rflags = 0x202 | random.next() & 0x8d5;
        if random.once_in(4) {
            rflags |= 0x400;
        }
        if alignment_checks {
            rflags |= 0x4_0000;
        }
        let mut fpu = Fpu { fcw: 0x37f, ftw: 0, ..Fpu::default() };
        fpu.xcr0 = if has_avx() { 7 } else { 3 };
        let high = fpu.ymm_high.iter_mut().flatten().filter(|_| has_avx());
        for half in fpu.xmm.iter_mut().flatten().chain(high) {
            *half = random.vector_half();
        }
        let top = random.below(8) as u16;
        fpu.fsw = top << 11 | if random.once_in(2) { random.next() as u16 & 0x4700 } else { 0 };
        fpu.ftw = if random.once_in(2) { random.next() as u8 } else { 0xff };
        fpu.fcw = 0x007f | if random.once_in(2) { random.next() as u16 & 0x0f00 } else { 0x300 };
        for st in &mut fpu.st {
            let (significand, sign_exponent) = random.extended();
            *st = Float80 { significand, sign_exponent };
        }
        let masks = if random.once_in(16) { random.next() as u32 & 0x1f80 } else { 0x1f80 };
        fpu.mxcsr = masks | if random.once_in(2) { random.next() as u32 & 0xe07f } else { 0 };
        Start { gpr, rflags, fpu, alignment_checks, memory: Start::memory(random, pool), legacy: None }
    }

    /// Random contents of memory, for many starts.
    pub(crate) fn pool(random: &mut Random) -> Vec<u8> {
        (0..MEMORY / 8).flat_map(|_| random.vector_half().to_le_bytes()).collect()
    }

    /// Another arrangement of the pool's numbers.
    fn memory(random: &mut Random, pool: &[u8]) -> Vec<u8> {
        let (first, second) = pool.split_at(8 * random.below(pool.len() as u64 / 8) as usize);
        [second, first].concat()
    }
}

/// Segments of programs that are not 64-bit code: data of 64 KiB, of 4 KiB, and of 64 KiB for a 32-bit stack; 16-bit and
/// 32-bit code; data that expands down.
pub(crate) fn legacy_segment(number: u16) -> Segment {
    const EXPAND_DOWN: u8 = 7;
    const CODE: u8 = 11;
    let data = Segment {
        selector: LEGACY_SELECTOR + 8 * number,
        base: LEGACY_DATA,
        limit: 0xffff,
        privilege: 3,
        default_big: false,
        granularity: false,
        ..Segment::flat_data(0)
    };
    match number {
        0 => data,
        1 => Segment { limit: 0xfff, ..data },
        2 => Segment { default_big: true, ..data },
        3 => Segment { base: LEGACY_CODE, kind: CODE, ..data },
        4 => Segment { base: LEGACY_CODE, kind: CODE, default_big: true, ..data },
        _ => Segment { limit: 0x7fff, kind: EXPAND_DOWN, ..data },
    }
}

/// A segment as its descriptor says it.
fn descriptor(segment: &Segment) -> u64 {
    let limit = u64::from(if segment.granularity { segment.limit >> 12 } else { segment.limit });
    let kind = u64::from(segment.kind) | 1 << 4 | u64::from(segment.privilege) << 5 | 1 << 7;
    let flags = u64::from(segment.default_big) << 2 | u64::from(segment.granularity) << 3;
    limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | kind << 40
        | (limit >> 16) << 48
        | flags << 52
        | (segment.base >> 24) << 56
}

/// AVX and AVX2 are there to be compared with.
pub(crate) fn has_avx() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    }
    #[cfg(not(target_arch = "x86_64"))]
    true
}

/// How a program ended, and what it left behind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// The exception; `None`: it never came, or the backend gave up with the sentence in [`Outcome::failure`].
    pub(crate) vector: Option<u8>,
    pub(crate) failure: Option<String>,
    pub(crate) error_code: u64,
    pub(crate) gpr: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    /// CS, SS, DS, ES, FS, GS.
    pub(crate) selectors: [u64; 6],
    /// The address of a page fault.
    pub(crate) cr2: u64,
    pub(crate) fpu: Fpu,
    /// Memory that the program could write, with the address of its beginning.
    pub(crate) memory: Vec<(u64, Vec<u8>)>,
}

/// Which backend, and how it executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Kvm,
    Interpreter,
    Baseline,
    Compiled,
}

/// Sees exception handlers report, and stops the processor.
struct Bus {
    handle: Mutex<Option<Arc<dyn VcpuHandle>>>,
    vector: AtomicU8,
}

const NOTHING: u8 = 0xff;

impl IoBus for Bus {
    fn read(&self, _: AddressSpace, _: u64, _: &mut [u8]) -> Result<(), Unmapped> {
        Err(Unmapped)
    }

    fn write(&self, space: AddressSpace, address: u64, _: &[u8]) -> Result<(), Unmapped> {
        if space == AddressSpace::Port && address < VECTORS {
            self.vector.store(address as u8, Ordering::SeqCst);
            if let Some(handle) = &*self.handle.lock() {
                handle.kick();
            }
        }
        Ok(())
    }
}

/// Ends runs that take too long.
struct Guard {
    /// Number of the run in progress; even between runs.
    run: AtomicU64,
}

pub(crate) struct Machine {
    pub(crate) backend: Backend,
    vcpu: Box<dyn Vcpu>,
    ram: Arc<Region>,
    bus: Arc<Bus>,
    guard: Arc<Guard>,
    /// As the processor was created.
    template: CpuState,
    /// Program that is in memory.
    loaded: Vec<u8>,
    _accelerator: Arc<dyn Accelerator>,
}

impl Machine {
    pub(crate) fn new(backend: Backend) -> Result<Machine, Error> {
        let jit = |tiers| -> Result<Arc<dyn Accelerator>, Error> {
            let clock = VirtualClock::new();
            clock.resume();
            Ok(Arc::new(Jit::with_tiers(Architecture::X86_64, clock, tiers)?))
        };
        let accelerator: Arc<dyn Accelerator> = match backend {
            Backend::Kvm => Arc::new(Kvm::open(Architecture::X86_64)?),
            Backend::Interpreter => jit(Tiers::InterpreterOnly)?,
            Backend::Baseline => jit(Tiers::Baseline(1))?,
            Backend::Compiled => jit(Tiers::Immediate(1))?,
        };
        let ram = allocate(0, RAM)?;
        accelerator.map_memory(MemorySlot { region: ram.clone(), read_only: false })?;
        write_tables(&ram);
        let mut vcpu = accelerator.create_vcpu(0)?;
        let bus = Arc::new(Bus { handle: Mutex::new(Some(vcpu.handle())), vector: AtomicU8::new(NOTHING) });
        let AnyState::X86_64(template) = vcpu.state()? else { unreachable!("an x86-64 processor") };
        let guard = Arc::new(Guard { run: AtomicU64::new(0) });
        guard_against_hangs(&guard, vcpu.handle());
        Ok(Machine {
            backend,
            vcpu,
            ram,
            bus,
            guard,
            template: *template,
            loaded: Vec::new(),
            _accelerator: accelerator,
        })
    }

    /// Runs the program at `origin` from `start` until an exception ends it.
    pub(crate) fn run(&mut self, origin: u64, code: &[u8], start: &Start) -> Outcome {
        if self.loaded != code {
            let segment = start.legacy.map_or(0, |segments| segments.cs.base);
            self.write(segment + origin, code);
            self.loaded = code.to_vec();
            if matches!(self.backend, Backend::Baseline | Backend::Compiled) {
                // What ran once is compiled when it runs again.
                self.execute(origin, start);
            }
        }
        self.execute(origin, start)
    }

    fn execute(&mut self, origin: u64, start: &Start) -> Outcome {
        if start.legacy.is_some() {
            self.write(LEGACY_DATA, &start.memory);
        } else {
            let (data, stack) = start.memory.split_at((DATA_END - DATA) as usize);
            self.write(DATA, data);
            self.write(STACK, stack);
        }
        let state = self.state_at(origin, start);
        self.vcpu.set_state(&AnyState::X86_64(Box::new(state))).expect("the state is a good one");
        self.bus.vector.store(NOTHING, Ordering::SeqCst);
        self.guard.run.fetch_add(1, Ordering::SeqCst);
        let exit = self.vcpu.run(&*self.bus);
        self.guard.run.fetch_add(1, Ordering::SeqCst);
        let vector = Some(self.bus.vector.load(Ordering::SeqCst)).filter(|vector| *vector != NOTHING);
        let failure = (exit != Exit::Kicked).then(|| format!("{exit:?}"));
        let AnyState::X86_64(state) = self.vcpu.state().expect("a state") else { unreachable!("an x86-64 processor") };
        let areas: &[_] = match start.legacy {
            Some(_) => &[(LEGACY_DATA, LEGACY_LENGTH)],
            None => &[(DATA, DATA_END - DATA), (STACK, STACK_END - STACK)],
        };
        let memory = areas.iter().map(|(start, length)| (*start, self.read(*start, *length))).collect();
        self.outcome(vector, failure, *state, memory)
    }

    fn outcome(
        &self,
        vector: Option<u8>,
        failure: Option<String>,
        state: CpuState,
        memory: Vec<(u64, Vec<u8>)>,
    ) -> Outcome {
        let mut outcome = Outcome {
            vector,
            failure,
            error_code: 0,
            gpr: state.gpr,
            rip: state.rip,
            rflags: state.rflags,
            selectors: [&state.cs, &state.ss, &state.ds, &state.es, &state.fs, &state.gs].map(|it| it.selector.into()),
            cr2: if vector == Some(PAGE_FAULT) { state.cr2 } else { 0 },
            fpu: state.fpu,
            memory,
        };
        if let Some(vector) = vector {
            let word = |index: u64| {
                let bytes = self.read(KERNEL_STACK - 8 * index, 8);
                u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
            };
            if WITH_ERROR_CODE.contains(&vector) || vector == ALIGNMENT_CHECK {
                outcome.error_code = word(6);
            }
            outcome.rip = word(5);
            outcome.rflags = word(3);
            (outcome.selectors[0], outcome.selectors[1]) = (word(4), word(1));
            outcome.gpr[gpr::RSP] = word(2);
        }
        outcome
    }

    fn state_at(&self, origin: u64, start: &Start) -> CpuState {
        let mut state = self.template.clone();
        const MONITOR: u64 = 1 << 1;
        const NUMERIC_ERROR: u64 = 1 << 5;
        const ALIGNMENT_MASK: u64 = 1 << 18;
        const OSXMMEXCPT: u64 = 1 << 10;
        state.cr0 = cr0::PE | MONITOR | cr0::ET | NUMERIC_ERROR | cr0::WP | cr0::PG;
        if start.alignment_checks {
            state.cr0 |= ALIGNMENT_MASK;
        }
        state.cr3 = PAGE_TABLES;
        state.cr4 = cr4::PAE | cr4::OSFXSR | OSXMMEXCPT | cr4::OSXSAVE;
        state.efer = efer::LME | efer::LMA;
        state.cs = Segment { privilege: 3, ..Segment::flat_code_64(USER_CODE) };
        let data = Segment { privilege: 3, ..Segment::flat_data(USER_DATA) };
        (state.ds, state.es, state.ss) = (data, data, data);
        state.fs = Segment { base: FS_BASE, ..data };
        state.gs = Segment { base: GS_BASE, ..data };
        state.tr = Segment { base: TASK_STATE, selector: 40, ..Segment::empty_task_state_64() };
        if let Some(Segments { cs, ss, ds, es }) = start.legacy {
            let null = Segment { unusable: true, ..Segment::default() };
            (state.cs, state.ss, state.ds, state.es, state.fs, state.gs) = (cs, ss, ds, es, null, null);
        }
        const LDT_KIND: u8 = 2;
        let limit = u32::from(8 * LEGACY_SEGMENTS - 1);
        state.ldt = Segment { selector: 16, base: LDT, limit, kind: LDT_KIND, present: true, ..Segment::default() };
        state.gdt = DescriptorTable { base: GDT, limit: 55 };
        state.idt = DescriptorTable { base: IDT, limit: (16 * VECTORS - 1) as u16 };
        state.gpr = start.gpr;
        state.rip = origin;
        state.rflags = start.rflags;
        state.fpu = Fpu { components: state.fpu.components, ..start.fpu.clone() };
        state.activity = Activity::Running;
        state
    }

    fn write(&self, address: u64, data: &[u8]) {
        self.ram.write_slice(data, MemoryRegionAddress(address)).expect("within memory");
    }

    fn read(&self, address: u64, length: u64) -> Vec<u8> {
        let mut data = vec![0; length as usize];
        self.ram.read_slice(&mut data, MemoryRegionAddress(address)).expect("within memory");
        data
    }
}

/// Kicks the processor when one run lasts for seconds.
fn guard_against_hangs(guard: &Arc<Guard>, handle: Arc<dyn VcpuHandle>) {
    let guard = Arc::downgrade(guard);
    std::thread::spawn(move || {
        let mut last = 0;
        loop {
            std::thread::sleep(std::time::Duration::from_secs(5));
            let Some(guard) = guard.upgrade() else { return };
            let run = guard.run.load(Ordering::SeqCst);
            if run % 2 == 1 && run == last {
                handle.kick();
            }
            last = run;
        }
    });
}

fn write_tables(ram: &Region) {
    let write = |address: u64, value: u64| ram.write_obj(value, MemoryRegionAddress(address)).expect("within memory");
    for level in 0..3 {
        write(PAGE_TABLES + 0x1000 * level, (PAGE_TABLES + 0x1000 * (level + 1)) | USER);
    }
    let page_table = PAGE_TABLES + 0x3000;
    let map = |start: u64, end: u64, attributes: u64| {
        for page in (start..end).step_by(0x1000) {
            write(page_table + page / 0x1000 * 8, page | attributes);
        }
    };
    map(0x1000, KERNEL_STACK, SUPERVISOR);
    map(CODE, CODE_END, USER_READ);
    map(DATA, DATA_END, USER);
    map(DATA_END, READ_ONLY_END, USER_READ);
    map(STACK, STACK_END, USER);
    map(LEGACY_CODE, LEGACY_CODE + LEGACY_LENGTH, USER_READ);
    map(LEGACY_DATA, LEGACY_DATA + LEGACY_LENGTH, USER);
    let filler = [INT3; LEGACY_LENGTH as usize];
    ram.write_slice(&filler, MemoryRegionAddress(LEGACY_CODE)).expect("within memory");
    for number in 0..LEGACY_SEGMENTS {
        let segment = legacy_segment(number);
        write(LDT + u64::from(segment.selector & !7), descriptor(&segment));
    }
    write(GDT + u64::from(KERNEL_CODE), 0x00af_9b00_0000_ffff);
    write(GDT + 16, 0x00cf_9300_0000_ffff);
    write(GDT + u64::from(USER_DATA & !3), 0x00cf_f300_0000_ffff);
    write(GDT + u64::from(USER_CODE & !3), 0x00af_fb00_0000_ffff);
    // A busy 64-bit task-state segment.
    write(GDT + 40, 0x0000_8b00_0000_0067 | TASK_STATE << 16);
    write(TASK_STATE + 4, KERNEL_STACK);
    // The offset of the I/O permission bitmap: beyond the limit, so that user mode has no ports.
    write(TASK_STATE + 0x60, 0x68 << 48);
    for vector in 0..VECTORS {
        let handler = HANDLERS + 16 * vector;
        // out vector, al; jmp $
        write(handler, 0xfeeb_00e6 | vector << 8);
        let privilege = if [END, OVERFLOW].contains(&(vector as u8)) { 3 << 45 } else { 0 };
        write(IDT + 16 * vector, handler | u64::from(KERNEL_CODE) << 16 | 0x8e00 << 32 | privilege);
        write(IDT + 16 * vector + 8, 0);
    }
}
