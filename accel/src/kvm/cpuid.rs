//! What a guest's CPUID instruction answers: all that the host's KVM supports, with the vCPU's own identity; or what a
//! processor model has that other backends know as well.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use translate::x86_64::cpuid::{CpuModel, Placement};
use translate::x86_64::features::{FEATURES, Feature, Word};

use crate::Error;

/// Leaves whose answers depend on ECX.
const WITH_SUBLEAVES: [u32; 3] = [7, 0xb, 0xd];

/// Takes from `model` what the host's KVM does not support.
pub(super) fn restrict(model: &mut CpuModel, supported: &CpuId, deadline_timer: bool) {
    let answer = |leaf, subleaf| {
        let found = supported.as_slice().iter().find(|entry| entry.function == leaf && entry.index == subleaf);
        found.copied().unwrap_or_default()
    };
    let has = |feature: &Feature| {
        let word = match feature.word {
            Word::BasicEdx => answer(1, 0).edx,
            Word::BasicEcx => answer(1, 0).ecx,
            Word::StructuredEbx => answer(7, 0).ebx,
            Word::StructuredEcx => answer(7, 0).ecx,
            Word::ExtendedEdx => answer(0x8000_0001, 0).edx,
            Word::ExtendedEcx => answer(0x8000_0001, 0).ecx,
            Word::Xsave => answer(0xd, 1).eax,
        };
        match feature.name {
            // KVM leaves these two to its user.
            "hypervisor" => true,
            "tsc-deadline" => deadline_timer,
            _ => word >> feature.bit & 1 != 0,
        }
    };
    for feature in FEATURES.iter().filter(|feature| !has(feature)) {
        model.features.remove(feature);
    }
}

/// The answers of a processor of a model at its place in the machine.
pub(super) fn of_model(model: &CpuModel, place: Placement) -> Result<CpuId, Error> {
    let entry = |(function, index, [eax, ebx, ecx, edx]): (u32, u32, [u32; 4])| kvm_cpuid_entry2 {
        function,
        index,
        flags: if WITH_SUBLEAVES.contains(&function) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    let entries: Vec<_> = model.entries(place).into_iter().map(entry).collect();
    CpuId::from_entries(&entries).map_err(|error| Error::State(format!("too many answers of CPUID: {error:?}")))
}

/// The answers for the vCPU with APIC id `index`.
///
/// Each vCPU is a package of its own with one core and one thread: how many there will be is not known yet, and guests
/// schedule well on that.
pub(super) fn for_vcpu(supported: &CpuId, index: u32, local_apic: bool, deadline_timer: bool) -> CpuId {
    let mut answers = supported.clone();
    for entry in answers.as_mut_slice() {
        match (entry.function, entry.index) {
            (1, _) => {
                // Bits 31..24: initial APIC id; 23..16: logical processors in the package.
                entry.ebx = entry.ebx & 0x0000_ffff | (index & 0xff) << 24 | 1 << 16;
                entry.edx = with_bit(entry.edx, 28, false);
                entry.ecx = with_bit(entry.ecx, 31, true);
                if !local_apic {
                    entry.ecx = with_bit(entry.ecx, 21, false);
                }
                entry.ecx = with_bit(entry.ecx, 24, deadline_timer);
            }
            // Bits 31..26: cores of the package less one; 25..14: threads that share this cache less one.
            (4, _) => entry.eax &= 0x0000_3fff,
            (0xb | 0x1f, level) => {
                entry.eax = 0;
                entry.ebx = u32::from(level < 2);
                // Bits 15..8: 1 thread, 2 core, 0 no such level.
                entry.ecx = level & 0xff | if level < 2 { (level + 1) << 8 } else { 0 };
                entry.edx = index;
            }
            (0x8000_0001, _) => {
                // No cores that share a package in the old way of counting, and the new one of 8000001EH below.
                entry.ecx = with_bit(entry.ecx, 1, false);
            }
            (0x8000_0008, _) => entry.ecx &= !0xf0ff,
            (0x8000_001d, _) => entry.eax &= 0x0000_3fff,
            (0x8000_001e, _) => {
                entry.eax = index;
                entry.ebx = index & 0xff;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    answers
}

fn with_bit(value: u32, bit: u32, set: bool) -> u32 {
    if set { value | 1 << bit } else { value & !(1 << bit) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    #[test]
    fn each_vcpu_sees_its_own_identity() {
        let entry = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: 0xffff_ffff,
            ebx: 0xffff_ffff,
            ecx: 0xffff_ffff,
            edx: 0xffff_ffff,
            ..Default::default()
        };
        let supported = CpuId::from_entries(&[entry(1, 0), entry(0xb, 0), entry(0xb, 1), entry(0xb, 2)]).unwrap();
        let answers = for_vcpu(&supported, 300, false, false);
        let [one, smt, core, end] = answers.as_slice() else { panic!("an answer was lost") };
        assert_eq!(one.ebx, 0x2c01_ffff, "the eight-bit id and one logical processor");
        assert_eq!(one.ecx & (1 << 21 | 1 << 24), 0, "no x2APIC and no deadline timer without a local APIC");
        assert_eq!((smt.edx, core.edx, end.edx), (300, 300, 300));
        assert_eq!((smt.ecx, core.ecx, end.ecx), (0x100, 0x201, 2));
        assert_eq!((smt.ebx, core.ebx, end.ebx), (1, 1, 0));
    }
}
