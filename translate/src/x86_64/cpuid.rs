//! What CPUID answers.

use super::mmu;

/// A processor model: the features that software may see and use.
#[derive(Clone, Debug)]
pub struct CpuModel {
    /// The name that `-cpu` takes.
    pub name: &'static str,
    family: u32,
    model: u32,
    stepping: u32,
    brand: &'static str,
    /// Leaf 1, EDX.
    features_edx: u32,
    /// Leaf 1, ECX.
    features_ecx: u32,
    /// Leaf 7, EBX.
    structured_ebx: u32,
    /// Leaf 7, ECX.
    structured_ecx: u32,
    /// Leaf 8000_0001h, EDX.
    extended_edx: u32,
    /// Leaf 8000_0001h, ECX.
    extended_ecx: u32,
}

/// What a processor of the model knows of its place in the machine.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// APIC id.
    pub id: u32,
    /// Processors in the machine, all in one package.
    pub count: u32,
}

/// The four registers of an answer: EAX, EBX, ECX, EDX.
pub type Answer = [u32; 4];

const fn bits(numbers: &[u32]) -> u32 {
    let mut word = 0;
    let mut position = 0;
    while position < numbers.len() {
        word |= 1 << numbers[position];
        position += 1;
    }
    word
}

/// FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE-36, CLFSH, MMX, FXSR, SSE, SSE2.
const BASIC_EDX: u32 = bits(&[0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26]);
/// SSE3, SSSE3, CMPXCHG16B, PCID, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC-deadline, RDRAND, hypervisor.
const FULL_ECX: u32 = bits(&[0, 9, 13, 17, 19, 20, 21, 22, 23, 24, 30, 31]);
/// SYSCALL, NX, FXSR-OPT is not there, 1 GiB pages, RDTSCP, long mode; and what leaf 1 has as well.
const EXTENDED_EDX: u32 = bits(&[0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 23, 24, 26, 27, 29]);
/// LAHF in 64-bit mode, LZCNT, PREFETCHW.
const EXTENDED_ECX: u32 = bits(&[0, 5, 8]);
/// FSGSBASE, TSC_ADJUST, BMI1, SMEP, BMI2, ERMS, INVPCID, RDSEED, ADX, SMAP, CLFLUSHOPT.
const FULL_STRUCTURED: u32 = bits(&[0, 1, 3, 7, 8, 9, 10, 18, 19, 20, 23]);
/// UMIP, 5-level paging.
const FULL_STRUCTURED_ECX: u32 = bits(&[2, 16]);

/// Bits of leaf 1 and 8000_0001h that are made of the state of the moment.
const ECX_OSXSAVE: u32 = 1 << 27;

/// The models, the default first.
pub const MODELS: &[CpuModel] = &[
    CpuModel {
        name: "max",
        family: 15,
        model: 107,
        stepping: 1,
        brand: "Brolga virtual processor",
        features_edx: BASIC_EDX,
        features_ecx: FULL_ECX,
        structured_ebx: FULL_STRUCTURED,
        structured_ecx: FULL_STRUCTURED_ECX,
        extended_edx: EXTENDED_EDX,
        extended_ecx: EXTENDED_ECX,
    },
    CpuModel {
        name: "qemu64",
        family: 15,
        model: 107,
        stepping: 1,
        brand: "QEMU Virtual CPU version 2.5+",
        features_edx: BASIC_EDX,
        features_ecx: bits(&[0, 13, 21, 31]),
        structured_ebx: 0,
        structured_ecx: 0,
        extended_edx: EXTENDED_EDX & !bits(&[26, 27]),
        extended_ecx: bits(&[0]),
    },
];

impl CpuModel {
    /// The model with a name.
    pub fn named(name: &str) -> Option<CpuModel> {
        MODELS.iter().find(|model| model.name == name).cloned()
    }

    /// The default.
    pub fn best() -> CpuModel {
        MODELS[0].clone()
    }

    /// Family, model and stepping, as leaf 1 and the reset value of EDX give them.
    pub fn signature(&self) -> u32 {
        let extended_family = self.family.saturating_sub(15);
        let family = self.family.min(15);
        extended_family << 20 | (self.model >> 4) << 16 | family << 8 | (self.model & 15) << 4 | self.stepping
    }

    /// Page tables may have 1 GiB pages.
    pub fn has_1_gib_pages(&self) -> bool {
        self.extended_edx & 1 << 26 != 0
    }

    /// INVPCID.
    pub fn has_invpcid(&self) -> bool {
        self.structured_ebx & 1 << 10 != 0
    }

    /// Linear addresses may have 57 bits.
    pub fn has_5_levels(&self) -> bool {
        self.structured_ecx & 1 << 16 != 0
    }

    /// The bits of CR4 that may be set.
    pub fn control_4(&self) -> u64 {
        use super::state::*;
        let mut allowed = 0x1fc | CR4_OSFXSR | CR4_OSXMMEXCPT;
        let structured = |bit: u32, flag: u64| if self.structured_ebx >> bit & 1 != 0 { flag } else { 0 };
        allowed |= structured(0, CR4_FSGSBASE) | structured(7, CR4_SMEP) | structured(20, CR4_SMAP);
        let mut set = |condition: bool, flag: u64| allowed |= if condition { flag } else { 0 };
        set(self.features_ecx & 1 << 17 != 0, CR4_PCIDE);
        set(self.structured_ecx & 1 << 2 != 0, CR4_UMIP);
        set(self.has_5_levels(), CR4_LA57);
        allowed
    }

    /// The answer for a leaf and subleaf. `os_xsave` is CR4.OSXSAVE.
    pub fn answer(&self, leaf: u32, subleaf: u32, place: Placement, os_xsave: bool) -> Answer {
        const HIGHEST: u32 = 0xd;
        const HIGHEST_EXTENDED: u32 = 0x8000_0008;
        let vendor = [0x6874_7541, 0x444d_4163, 0x6974_6e65];
        match leaf {
            0 => [HIGHEST, vendor[0], vendor[1], vendor[2]],
            1 => {
                let count = place.count.min(255);
                let ebx = place.id << 24 | count << 16 | 8 << 8;
                let threads = if count > 1 { 1 << 28 } else { 0 };
                let ecx = self.features_ecx | if os_xsave { ECX_OSXSAVE } else { 0 };
                [self.signature(), ebx, ecx, self.features_edx | threads]
            }
            7 if subleaf == 0 => [0, self.structured_ebx, self.structured_ecx, 0],
            0xb => {
                let shift = place.count.max(1).next_power_of_two().trailing_zeros();
                match subleaf {
                    0 => [0, 1, 1 << 8, place.id],
                    1 => [shift, place.count, 1 | 2 << 8, place.id],
                    _ => [0, 0, subleaf, place.id],
                }
            }
            0x4000_0000 => [0x4000_0010, 0x6c6f_7242, 0x2061_6167, 0x2020_2020],
            // Frequencies in kHz, of the time stamp counter and of the local APIC's timer.
            0x4000_0010 => [super::msr::TIME_STAMP_KHZ, super::msr::TIME_STAMP_KHZ, 0, 0],
            0x8000_0000 => [HIGHEST_EXTENDED, vendor[0], vendor[1], vendor[2]],
            0x8000_0001 => {
                let multi = if place.count > 1 { 1 << 1 } else { 0 };
                [self.signature(), 0, self.extended_ecx | multi, self.extended_edx]
            }
            0x8000_0002..=0x8000_0004 => self.brand_part(leaf - 0x8000_0002),
            // L1: 64 KiB of data, 64 KiB of code, 2-way, lines of 64 bytes.
            0x8000_0005 => [0x01ff_01ff, 0x01ff_01ff, 0x4002_0140, 0x4002_0140],
            // L2: 512 KiB, 16-way.
            0x8000_0006 => [0, 0x4200_4200, 0x0200_8140, 0],
            // The time stamp counter does not change its rate.
            0x8000_0007 => [0, 0, 0, 1 << 8],
            0x8000_0008 => [
                mmu::PHYSICAL_BITS | if self.has_5_levels() { 57 << 8 } else { 48 << 8 },
                0,
                place.count.saturating_sub(1),
                0,
            ],
            _ => [0; 4],
        }
    }

    fn brand_part(&self, part: u32) -> Answer {
        let mut bytes = [0; 48];
        for (to, from) in bytes.iter_mut().zip(self.brand.bytes()) {
            *to = from;
        }
        let word = |position: usize| {
            let start = (part as usize * 4 + position) * 4;
            u32::from_le_bytes([bytes[start], bytes[start + 1], bytes[start + 2], bytes[start + 3]])
        };
        [word(0), word(1), word(2), word(3)]
    }
}
