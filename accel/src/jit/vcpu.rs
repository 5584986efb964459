//! A vCPU of the JIT backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use translate::cpu::{ATTENTION_INTERRUPT, ATTENTION_KICK, Signals, WatchedRange};
use translate::engine::{Engine, Stop, Translator};

use super::Shared;
use super::platform::RunPlatform;
use super::processor::Processor;
use crate::clock::Timer;
use crate::state::CpuState;
use crate::{DebugControl, DebugEvent, Error, Exit, IoBus, Vcpu, VcpuHandle, WatchAccess};

/// How other threads reach a vCPU, and how it waits for them while it is halted.
pub(super) struct Wake {
    signals: Arc<Signals>,
    halted: AtomicBool,
    // Lock order: alone. Held to wait, and to wake who waits.
    waiting: Mutex<()>,
    woken: Condvar,
    signalling: Signalling,
}

/// How the architecture takes signals that are not levels.
struct Signalling {
    inputs: u64,
    nmi: fn(&Signals) -> Result<(), Error>,
    smi: fn(&Signals),
    init: fn(&Signals),
    start_up: fn(&Signals, u8),
}

impl Wake {
    /// Sets attention bits, and wakes the vCPU if it waits.
    pub(super) fn request(&self, attention: u32) {
        self.signals.request(attention);
        self.notify();
    }

    fn notify(&self) {
        // Pairs with `wait`: either this sees `halted`, or `wait` sees the attention word.
        if self.halted.load(Ordering::SeqCst) {
            let _waiting = self.waiting.lock();
            self.woken.notify_one();
        }
    }

    /// Waits until the attention word is not zero.
    fn wait(&self) {
        let mut waiting = self.waiting.lock();
        self.halted.store(true, Ordering::SeqCst);
        while self.signals.attention.load(Ordering::SeqCst) == 0 {
            self.woken.wait(&mut waiting);
        }
        self.halted.store(false, Ordering::SeqCst);
    }
}

impl VcpuHandle for Wake {
    fn kick(&self) {
        self.request(ATTENTION_KICK);
    }

    fn set_interrupt(&self, input: u32, level: bool) {
        let exists = input < u64::BITS && self.signalling.inputs >> input & 1 != 0;
        if exists && self.signals.set_input(input, level) {
            self.notify();
        }
    }

    fn inject_nmi(&self) -> Result<(), Error> {
        (self.signalling.nmi)(&self.signals)?;
        self.notify();
        Ok(())
    }

    fn inject_smi(&self) {
        (self.signalling.smi)(&self.signals);
        self.notify();
    }

    fn inject_init(&self) {
        (self.signalling.init)(&self.signals);
        self.notify();
    }

    fn inject_start_up(&self, vector: u8) {
        (self.signalling.start_up)(&self.signals, vector);
        self.notify();
    }

    fn is_halted(&self) -> bool {
        self.halted.load(Ordering::SeqCst)
    }
}

/// A processor.
pub(super) struct JitVcpu<P: Processor> {
    engine: Engine<P>,
    shared: Arc<Shared>,
    wake: Arc<Wake>,
    /// Wakes the processor when its own timer is due.
    timer: Timer,
    single_step: bool,
}

impl<P: Processor> JitVcpu<P> {
    pub(super) fn new(index: u32, shared: Arc<Shared>, translator: Arc<Translator<P>>) -> JitVcpu<P> {
        let mut engine = Engine::new(u64::from(index), P::new(index, &shared.vcpu_count, &shared.model), translator);
        P::reset(&mut engine.cpu);
        let wake = Arc::new(Wake {
            signals: engine.cpu.signals.clone(),
            halted: AtomicBool::new(false),
            waiting: Mutex::new(()),
            woken: Condvar::new(),
            signalling: Signalling {
                inputs: P::INPUTS,
                nmi: P::inject_nmi,
                smi: P::inject_smi,
                init: P::inject_init,
                start_up: P::inject_start_up,
            },
        });
        let timer_wake = wake.clone();
        let timer = shared.clock.timer(move || timer_wake.request(ATTENTION_INTERRUPT));
        JitVcpu { engine, shared, wake, timer, single_step: false }
    }

    pub(super) fn wake(&self) -> Arc<Wake> {
        self.wake.clone()
    }
}

/// A bus on which nothing answers, for translations outside a run.
struct NoBus;

impl IoBus for NoBus {
    fn read(&self, _: crate::AddressSpace, _: u64, _: &mut [u8]) -> Result<(), crate::Unmapped> {
        Err(crate::Unmapped)
    }

    fn write(&self, _: crate::AddressSpace, _: u64, _: &[u8]) -> Result<(), crate::Unmapped> {
        Err(crate::Unmapped)
    }
}

impl<P: Processor> Vcpu for JitVcpu<P> {
    fn run(&mut self, io: &dyn IoBus) -> Exit {
        loop {
            let map = self.shared.memory.load_full();
            let platform = RunPlatform { map, shared: &self.shared, io, timer: &self.timer };
            let stop = if self.single_step {
                match self.engine.step(&platform) {
                    None => return Exit::Debug(DebugEvent::SingleStep),
                    Some(stop) => stop,
                }
            } else {
                self.engine.run(&platform)
            };
            // Before waiting, so that memory can be unmapped meanwhile.
            drop(platform);
            match stop {
                Stop::Kicked => return Exit::Kicked,
                Stop::MemoryChanged => {}
                Stop::Halted => self.wake.wait(),
                Stop::ShutDown => return Exit::Shutdown,
                Stop::Breakpoint(address) => return Exit::Debug(DebugEvent::Breakpoint(address)),
                Stop::Watchpoint(address) => return Exit::Debug(DebugEvent::Watchpoint(address)),
            }
        }
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        let map = self.shared.memory.load_full();
        let platform = RunPlatform { map, shared: &self.shared, io: &NoBus, timer: &self.timer };
        Ok(self.engine.cpu.with_platform(&platform, |cpu| P::state(cpu)))
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        let map = self.shared.memory.load_full();
        let platform = RunPlatform { map, shared: &self.shared, io: &NoBus, timer: &self.timer };
        self.engine.cpu.with_platform(&platform, |cpu| {
            P::set_state(cpu, state)?;
            P::settle(cpu);
            Ok::<_, Error>(())
        })?;
        self.wake.signals.request(ATTENTION_INTERRUPT);
        Ok(())
    }

    fn set_debug(&mut self, debug: &DebugControl) -> Result<(), Error> {
        self.single_step = debug.single_step;
        let watched = debug.watchpoints.iter().map(|watchpoint| WatchedRange {
            address: watchpoint.address,
            length: watchpoint.length,
            reads: watchpoint.access == WatchAccess::ReadWrite,
        });
        self.engine.set_debug(debug.breakpoints.iter().copied().collect(), watched.collect());
        Ok(())
    }

    fn statistics(&self) -> Option<String> {
        Some(self.engine.statistics())
    }

    fn translate(&mut self, address: u64) -> Result<Option<u64>, Error> {
        let map = self.shared.memory.load_full();
        let platform = RunPlatform { map, shared: &self.shared, io: &NoBus, timer: &self.timer };
        let mode = P::data_mode(&self.engine.cpu);
        Ok(self.engine.translate(&platform, address, mode))
    }

    fn handle(&self) -> Arc<dyn VcpuHandle> {
        self.wake.clone()
    }
}
