//! Debug requests on the processor's four debug address registers (SDM volume 3, 18.2).

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_debug_exit_arch, kvm_guest_debug,
};

use super::NAME;
use crate::{DebugControl, DebugEvent, Error, WatchAccess};

/// Debug requests as KVM knows them.
#[derive(Default)]
pub(super) struct Debug {
    /// What each debug address register stands for.
    registers: Vec<DebugEvent>,
    single_step: bool,
    raw: kvm_guest_debug,
}

/// RW field of DR7.
const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const READ_WRITE: u64 = 3;

impl Debug {
    /// Distributes the requests over the registers.
    pub(super) fn program(request: &DebugControl) -> Result<Debug, Error> {
        let unsupported = |what| Err(Error::Unsupported { name: NAME, what });
        // Reserved bit 10, and exact data breakpoints.
        let mut dr7 = 1_u64 << 10 | 1 << 9;
        let mut guest_debug = kvm_guest_debug::default();
        let mut registers = Vec::new();
        let breakpoints =
            request.breakpoints.iter().map(|&address| (address, EXECUTE, 1, DebugEvent::Breakpoint(address)));
        let watchpoints = request.watchpoints.iter().map(|watch| {
            let access = match watch.access {
                WatchAccess::Write => WRITE,
                WatchAccess::ReadWrite => READ_WRITE,
            };
            (watch.address, access, watch.length, DebugEvent::Watchpoint(watch.address))
        });
        for (number, (address, access, length, event)) in breakpoints.chain(watchpoints).enumerate() {
            let Some(register) = guest_debug.arch.debugreg[..4].get_mut(number) else {
                return unsupported("more than four breakpoints and watchpoints together");
            };
            let length_code = match length {
                1 => 0_u64,
                2 => 1,
                4 => 3,
                8 => 2,
                _ => return unsupported("watchpoints of other lengths than 1, 2, 4 and 8 bytes"),
            };
            if address % length != 0 {
                return unsupported("watchpoints that are not aligned to their length");
            }
            *register = address;
            dr7 |= 0b11 << (2 * number) | access << (16 + 4 * number) | length_code << (18 + 4 * number);
            registers.push(event);
        }
        if !registers.is_empty() {
            guest_debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
            guest_debug.arch.debugreg[7] = dr7;
        }
        if request.single_step {
            guest_debug.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        }
        Ok(Debug { registers, single_step: request.single_step, raw: guest_debug })
    }

    /// The request for `KVM_SET_GUEST_DEBUG`.
    pub(super) fn programmed(&self) -> &kvm_guest_debug {
        &self.raw
    }

    /// The request that executes one instruction with breakpoints off and watchpoints on.
    pub(super) fn passing_breakpoints(&self) -> kvm_guest_debug {
        let mut raw = self.raw;
        raw.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        for (number, event) in self.registers.iter().enumerate() {
            if matches!(event, DebugEvent::Breakpoint(_)) {
                raw.arch.debugreg[7] &= !(0b11 << (2 * number));
            }
        }
        raw
    }

    /// The breakpoint or watchpoint that caused an exit, if one did.
    pub(super) fn hit(&self, exit: &kvm_debug_exit_arch) -> Option<DebugEvent> {
        let mut hits = self.registers.iter().enumerate().filter(|(number, _)| exit.dr6 >> number & 1 != 0);
        hits.next().map(|(_, &event)| event)
    }

    /// Each instruction ends the run.
    pub(super) fn single_step(&self) -> bool {
        self.single_step
    }

    /// There is a breakpoint at linear `address`, or at any if `None` is given.
    pub(super) fn has_breakpoint(&self, address: Option<u64>) -> bool {
        self.registers.iter().any(|event| match (event, address) {
            (DebugEvent::Breakpoint(_), None) => true,
            (DebugEvent::Breakpoint(at), Some(address)) => *at == address,
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Watchpoint;

    #[test]
    fn registers_are_shared_and_run_out() {
        let mut request = DebugControl { breakpoints: vec![0x1001, 0x2000], ..DebugControl::default() };
        request.watchpoints.push(Watchpoint { address: 0x3008, length: 8, access: WatchAccess::Write });
        request.watchpoints.push(Watchpoint { address: 0x4004, length: 4, access: WatchAccess::ReadWrite });
        let debug = Debug::program(&request).unwrap();
        let raw = debug.programmed();
        assert_eq!(raw.arch.debugreg[..4], [0x1001, 0x2000, 0x3008, 0x4004]);
        assert_eq!(raw.arch.debugreg[7], 0xf900_06ff, "RW and LEN: 0 and 0, 0 and 0, 1 and 2, 3 and 3");
        let exit = kvm_debug_exit_arch { dr6: 1 << 2, ..Default::default() };
        assert_eq!(debug.hit(&exit), Some(DebugEvent::Watchpoint(0x3008)));
        assert_eq!(debug.passing_breakpoints().arch.debugreg[7], 0xf900_06f0);
        request.breakpoints.push(0);
        assert!(Debug::program(&request).is_err());
    }

    #[test]
    fn a_misaligned_watchpoint_is_refused() {
        let watch = Watchpoint { address: 0x1002, length: 4, access: WatchAccess::Write };
        assert!(Debug::program(&DebugControl { watchpoints: vec![watch], ..DebugControl::default() }).is_err());
    }
}
