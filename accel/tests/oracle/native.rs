//! The host's own processor, in 16-bit and 32-bit code of this process: segments in its local descriptor table, entered and left
//! through signals.

use std::cell::UnsafeCell;
use std::io::Error;

use accel::state::x86_64::gpr;

use crate::legacy::End;
use crate::machine::{self, LEGACY_LENGTH, LEGACY_SEGMENTS, Segments};
use crate::program::INT3;

const LENGTH: usize = LEGACY_LENGTH as usize;
/// Between the segments and around them nothing is mapped.
const SPACE: usize = 5 * LENGTH;

/// The processor of the thread that made it.
pub(crate) struct Native {
    code: *mut u8,
    data: *mut u8,
}

/// What handlers and the thread that they interrupt share.
struct Exchange {
    /// The thread that has the `Native`.
    owner: i64,
    active: bool,
    /// What to begin with: gregs, and DS and ES.
    begin: [i64; 23],
    begin_data: [u16; 2],
    /// The thread that is interrupted.
    saved: [i64; 23],
    /// How it ended.
    signal: i32,
    end: [i64; 23],
    end_data: [u16; 2],
}

struct Cell(UnsafeCell<Exchange>);

// SAFETY: only the one thread that has a `Native` touches it, and the handlers of its signals; others read the owner.
unsafe impl Sync for Cell {}

static EXCHANGE: Cell = Cell(UnsafeCell::new(Exchange {
    owner: 0,
    active: false,
    begin: [0; 23],
    begin_data: [0; 2],
    saved: [0; 23],
    signal: 0,
    end: [0; 23],
    end_data: [0; 2],
}));

/// Registers of a signal's frame in the order of an encoding.
const REGISTERS: [i32; 8] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
];
/// The frame holds SS, and it is to be loaded as it is.
const SS_IS_THERE: u64 = 2 | 4;

/// Clears NT, AC and ID, which a program may have left, and which the kernel leaves to handlers.
fn clear_flags() {
    // SAFETY: what it pushes it pops, and these flags mean nothing to the compiler.
    unsafe { std::arch::asm!("pushfq", "and dword ptr [rsp], 0xffdbbfff", "popfq") };
}

extern "C" fn begin(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a frame; the thread that shares the rest waits in `raise`.
    let (context, exchange) = unsafe { (&mut *context.cast::<libc::ucontext_t>(), &mut *EXCHANGE.0.get()) };
    exchange.saved = context.uc_mcontext.gregs;
    context.uc_mcontext.gregs = exchange.begin;
    context.uc_flags |= SS_IS_THERE;
    exchange.active = true;
    let [ds, es] = exchange.begin_data;
    // SAFETY: in 64-bit code nothing is reached through these two.
    unsafe { std::arch::asm!("mov ds, {0:x}", "mov es, {1:x}", in(reg) ds, in(reg) es) };
}

extern "C" fn end(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    clear_flags();
    // SAFETY: it was written before any handler was there, and the call has no requirements.
    let (owner, thread) = unsafe { ((*EXCHANGE.0.get()).owner, libc::syscall(libc::SYS_gettid)) };
    if signal == libc::SIGALRM && thread != owner {
        // The alarm is the whole process's.
        // SAFETY: the call has no requirements.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), owner, signal) };
        return;
    }
    // SAFETY: as in `begin`, on the thread that waits; on any other it is not looked at.
    let (context, exchange) = unsafe { (&mut *context.cast::<libc::ucontext_t>(), EXCHANGE.0.get()) };
    // SAFETY: as above.
    let Some(exchange) = (thread == owner).then(|| unsafe { &mut *exchange }).filter(|exchange| exchange.active) else {
        if signal != libc::SIGALRM {
            // Somebody else's, who is to have it when it comes again.
            // SAFETY: the default action has no requirements.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        return;
    };
    let (ds, es): (u16, u16);
    // SAFETY: as in `begin`.
    unsafe {
        std::arch::asm!("mov {0:x}, ds", "mov {1:x}, es", "mov ds, {2:x}", "mov es, {2:x}", out(reg) ds, out(reg) es, in(reg) 0)
    };
    exchange.signal = signal;
    exchange.end = context.uc_mcontext.gregs;
    exchange.end_data = [ds, es];
    exchange.active = false;
    context.uc_mcontext.gregs = exchange.saved;
}

impl Native {
    /// Makes segments and takes over signals of faults.
    pub(crate) fn new() -> Result<Native, Error> {
        let checked = |result: i64| if result < 0 { Err(Error::last_os_error()) } else { Ok(()) };
        let map = |address: *mut libc::c_void, length, protection, flags| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
            // SAFETY: a new mapping, or one in place of a part of the reserved space.
            let start = unsafe { libc::mmap(address, length, protection, flags, -1, 0) };
            if start == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(start.cast::<u8>()) }
        };
        let space = map(std::ptr::null_mut(), SPACE, libc::PROT_NONE, libc::MAP_32BIT)?;
        let (read, write) = (libc::PROT_READ, libc::PROT_WRITE);
        let inside =
            |offset: usize, protection| map(space.wrapping_add(offset).cast(), LENGTH, protection, libc::MAP_FIXED);
        let code = inside(LENGTH, read | write | libc::PROT_EXEC)?;
        let data = inside(3 * LENGTH, read | write)?;
        // SAFETY: it was just mapped.
        unsafe { code.write_bytes(INT3, LENGTH) };
        for number in 0..LEGACY_SEGMENTS {
            let segment = machine::legacy_segment(number);
            let (is_code, expands_down) = (segment.kind & 8 != 0, segment.kind & 4 != 0);
            let base = if is_code { code } else { data } as u32;
            let contents = if is_code { 2 } else { u32::from(expands_down) };
            // struct user_desc: the number, base, limit, and seg_32bit with contents in bits 2..1.
            let descriptor = [u32::from(number), base, segment.limit, u32::from(segment.default_big) | contents << 1];
            // SAFETY: the kernel reads the descriptor, of the length given.
            checked(unsafe { libc::syscall(libc::SYS_modify_ldt, 1, descriptor.as_ptr(), size_of_val(&descriptor)) })?;
        }
        let stack = map(std::ptr::null_mut(), LENGTH, read | write, 0)?;
        let stack = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: LENGTH };
        // SAFETY: the stack is never unmapped.
        checked(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) }.into())?;
        let handle = |signal, handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)| {
            // SAFETY: all zeros is a good value of this type.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: the handlers call nothing but system calls.
            checked(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }.into())
        };
        handle(libc::SIGUSR1, begin)?;
        // SAFETY: nothing is active yet, and the call has no requirements.
        unsafe { (*EXCHANGE.0.get()).owner = libc::syscall(libc::SYS_gettid) };
        for signal in [libc::SIGTRAP, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGBUS, libc::SIGALRM] {
            handle(signal, end)?;
        }
        Ok(Native { code, data })
    }

    /// Executes the code at `origin` of its segment until an exception ends it.
    pub(crate) fn run(
        &mut self,
        origin: u64,
        code: &[u8],
        gprs: &[u64; 16],
        rflags: u64,
        segments: &Segments,
        memory: &[u8],
    ) -> End {
        assert!(origin as usize + code.len() <= LENGTH && memory.len() == LENGTH, "within the segments");
        // SAFETY: the ranges are within what was mapped.
        unsafe {
            self.code.add(origin as usize).copy_from_nonoverlapping(code.as_ptr(), code.len());
            self.data.copy_from_nonoverlapping(memory.as_ptr(), LENGTH);
        }
        let exchange = EXCHANGE.0.get();
        let mut registers = [0; 23];
        for (number, name) in REGISTERS.into_iter().enumerate() {
            registers[name as usize] = gprs[number] as i64;
        }
        registers[libc::REG_RIP as usize] = origin as i64;
        registers[libc::REG_EFL as usize] = rflags as i64;
        let [cs, ss] = [segments.cs, segments.ss].map(|segment| i64::from(segment.selector));
        registers[libc::REG_CSGSFS as usize] = cs | ss << 48;
        // SAFETY: no handler runs now.
        unsafe {
            (*exchange).begin = registers;
            (*exchange).begin_data = [segments.ds.selector, segments.es.selector];
            // Some go round for ever.
            libc::alarm(5);
            libc::raise(libc::SIGUSR1);
            libc::alarm(0);
        }
        // SAFETY: the handlers have run.
        let (end, data, signal) = unsafe { ((*exchange).end, (*exchange).end_data, (*exchange).signal) };
        let register = |name: i32| end[name as usize] as u64;
        let mut after = vec![0; LENGTH];
        // SAFETY: as above.
        unsafe { self.data.copy_to_nonoverlapping(after.as_mut_ptr(), LENGTH) };
        let selectors = register(libc::REG_CSGSFS);
        let vector = (signal != libc::SIGALRM).then_some(register(libc::REG_TRAPNO) as u8);
        End {
            vector,
            error_code: register(libc::REG_ERR),
            gpr: REGISTERS.map(|name| register(name) as u32),
            rip: register(libc::REG_RIP),
            rflags: register(libc::REG_EFL),
            selectors: [selectors as u16, (selectors >> 48) as u16, data[0], data[1]],
            memory: after,
        }
    }
}

const _: () = assert!(gpr::RSP == 4, "registers are in the order of their encoding");
