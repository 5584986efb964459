//! KVM on hosts for which there is no backend yet.

use std::convert::Infallible;

use translate::x86_64::cpuid::CpuModel;

use super::NAME;
use crate::memory::MemorySlot;
use crate::{Accelerator, Architecture, Capabilities, Error, IoEvent, Msi, Vcpu};

/// The KVM backend, which this host does not have.
pub struct Kvm(Infallible);

impl Kvm {
    /// Always fails.
    pub fn open(_architecture: Architecture) -> Result<Kvm, Error> {
        Err(Error::Unavailable { name: NAME, reason: "Brolga knows KVM on x86-64 hosts only".into() })
    }

    /// Always fails.
    pub fn open_with_model(architecture: Architecture, model: CpuModel, _count: u32) -> Result<(Kvm, CpuModel), Error> {
        Kvm::open(architecture).map(|kvm| (kvm, model))
    }
}

impl Accelerator for Kvm {
    fn name(&self) -> &'static str {
        match self.0 {}
    }
    fn capabilities(&self) -> &Capabilities {
        match self.0 {}
    }
    fn map_memory(&self, _slot: MemorySlot) -> Result<(), Error> {
        match self.0 {}
    }
    fn unmap_memory(&self, _address: u64) -> Result<(), Error> {
        match self.0 {}
    }
    fn set_dirty_logging(&self, _address: u64, _enabled: bool) -> Result<(), Error> {
        match self.0 {}
    }
    fn dirty_log(&self, _address: u64) -> Result<Vec<u64>, Error> {
        match self.0 {}
    }
    fn create_interrupt_controller(&self) -> Result<(), Error> {
        match self.0 {}
    }
    fn set_interrupt_line(&self, _line: u32, _level: bool) -> Result<(), Error> {
        match self.0 {}
    }
    fn signal_msi(&self, _msi: Msi) -> Result<(), Error> {
        match self.0 {}
    }
    fn register_io_event(&self, _event: IoEvent, _fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), Error> {
        match self.0 {}
    }
    fn unregister_io_event(&self, _event: IoEvent, _fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), Error> {
        match self.0 {}
    }
    fn register_interrupt_event(&self, _line: u32, _fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), Error> {
        match self.0 {}
    }
    fn unregister_interrupt_event(&self, _line: u32, _fd: &vmm_sys_util::eventfd::EventFd) -> Result<(), Error> {
        match self.0 {}
    }
    fn create_vcpu(&self, _index: u32) -> Result<Box<dyn Vcpu>, Error> {
        match self.0 {}
    }
}
