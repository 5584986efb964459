//! What CPUID answers.

use super::features::{FeatureError, FeatureSet, InstructionSet, Word};
use super::msr::TIME_STAMP_KHZ;
use super::{mmu, xsave};

/// A processor model: the features that software may see and use.
#[derive(Clone, Debug)]
pub struct CpuModel {
    /// The name that `-cpu` takes.
    pub name: &'static str,
    vendor: [u8; 12],
    family: u32,
    model: u32,
    stepping: u32,
    brand: &'static str,
    /// What it has.
    pub features: FeatureSet,
    /// Ticks of its time stamp counter in a millisecond.
    pub time_stamp_khz: u32,
    /// Its value when the processor is made.
    pub time_stamp_start: u64,
}

/// What is wrong with a `-cpu` option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No model is called so.
    #[error("{given:?} is no processor model; valid are {valid}")]
    Unknown {
        /// What was given.
        given: String,
        /// All that there are.
        valid: String,
    },
    /// A part of the option is not `+FEATURE`, `-FEATURE`, `FEATURE`, `FEATURE=on|off` or `vendor=VENDOR`.
    #[error("{0:?} is not understood; valid are +FEATURE, -FEATURE, FEATURE=on, FEATURE=off and vendor=VENDOR")]
    Malformed(String),
    /// Not a vendor.
    #[error("vendor={0} is not understood; valid are 12 characters, such as AuthenticAMD and GenuineIntel")]
    Vendor(String),
    /// The feature cannot be switched so.
    #[error(transparent)]
    Feature(#[from] FeatureError),
}

/// What a processor of the model knows of its place in the machine.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// APIC id.
    pub id: u32,
    /// Processors in the machine, all in one package.
    pub count: u32,
}

/// What answers depend on besides the model.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// CR4.OSXSAVE.
    pub os_xsave: bool,
    /// XCR0.
    pub xcr0: u64,
}

impl Moment {
    /// After reset.
    pub const RESET: Moment = Moment { os_xsave: false, xcr0: 1 };
}

/// The highest leaf.
const HIGHEST: u32 = 0xd;
/// The highest extended leaf.
const HIGHEST_EXTENDED: u32 = 0x8000_0008;

/// The four registers of an answer: EAX, EBX, ECX, EDX.
pub type Answer = [u32; 4];

/// The local APIC's timer counts nanoseconds.
const LOCAL_APIC_KHZ: u32 = 1_000_000;

/// Bits of leaf 1 and 8000_0001h that are made of the state of the moment.
const ECX_OSXSAVE: u32 = 1 << 27;

/// The bits of leaf 1, EDX, that leaf 8000_0001h repeats.
const REPEATED_EDX: u32 = 0x0183_f3ff;

/// x87, SSE and AVX, of which XCR0 may have the last if the model has it.
const LEGACY_COMPONENTS: u64 = 0b11;
const AVX_COMPONENT: u64 = 0b100;

/// A model with its features by name.
struct Template {
    name: &'static str,
    description: &'static str,
    brand: &'static str,
    /// None: all that are built.
    features: Option<&'static [&'static [&'static str]]>,
}

/// What every 64-bit processor has.
const FEATURES_64: &[&str] = &[
    "fpu",
    "de",
    "pse",
    "tsc",
    "msr",
    "pae",
    "mce",
    "cx8",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "mca",
    "cmov",
    "pat",
    "pse36",
    "clflush",
    "mmx",
    "fxsr",
    "sse",
    "sse2",
    "hypervisor",
    "syscall",
    "nx",
    "lm",
    "x2apic",
];
const FEATURES_QEMU64: &[&str] = &["pni", "cx16", "lahf-lm"];
/// The levels of the x86-64 psABI.
const FEATURES_V2: &[&str] = &["popcnt", "ssse3", "sse4.1", "sse4.2"];
const FEATURES_V3: &[&str] =
    &["xsave", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsaveopt", "xsavec", "xgetbv1"];

const TEMPLATES: &[Template] = &[
    Template {
        name: "max",
        description: "all features that are built",
        brand: "Brolga virtual processor",
        features: None,
    },
    Template {
        name: "qemu64",
        description: "what every x86-64 processor has, and CMPXCHG16B and SSE3",
        brand: "QEMU Virtual CPU version 2.5+",
        features: Some(&[FEATURES_64, FEATURES_QEMU64]),
    },
    Template {
        name: "x86-64-v2",
        description: "level 2 of the x86-64 psABI: to SSE4.2",
        brand: "Brolga virtual processor (x86-64-v2)",
        features: Some(&[FEATURES_64, FEATURES_QEMU64, FEATURES_V2]),
    },
    Template {
        name: "x86-64-v3",
        description: "level 3 of the x86-64 psABI: to AVX2, BMI2, F16C and FMA",
        brand: "Brolga virtual processor (x86-64-v3)",
        features: Some(&[FEATURES_64, FEATURES_QEMU64, FEATURES_V2, FEATURES_V3]),
    },
    Template {
        name: "base",
        description: "no features but those that are switched on",
        brand: "Brolga virtual processor",
        features: Some(&[]),
    },
];

impl CpuModel {
    /// The model with a name.
    pub fn named(name: &str) -> Option<CpuModel> {
        TEMPLATES.iter().find(|template| template.name == name).map(CpuModel::of)
    }

    fn of(template: &Template) -> CpuModel {
        let features = match template.features {
            None => FeatureSet::all(),
            Some(lists) => lists.iter().fold(FeatureSet::NONE, |set, list| set.and(list)),
        };
        CpuModel {
            name: template.name,
            vendor: *b"AuthenticAMD",
            family: 15,
            model: 107,
            stepping: 1,
            brand: template.brand,
            features,
            time_stamp_khz: TIME_STAMP_KHZ,
            time_stamp_start: 0,
        }
    }

    /// The default.
    pub fn best() -> CpuModel {
        CpuModel::of(&TEMPLATES[0])
    }

    /// Names and descriptions of the models, the default first.
    pub fn list() -> impl Iterator<Item = (&'static str, &'static str)> {
        TEMPLATES.iter().map(|template| (template.name, template.description))
    }

    /// Reads a `-cpu` option: a model, then features that it has besides or lacks. `host` is another name of the default.
    pub fn parse(text: &str) -> Result<CpuModel, ModelError> {
        let (name, switches) = text.split_once(',').unwrap_or((text, ""));
        let mut model = match name {
            "host" => CpuModel::best(),
            _ => CpuModel::named(name).ok_or_else(|| ModelError::Unknown {
                given: name.into(),
                valid: CpuModel::list().map(|(name, _)| name).collect::<Vec<_>>().join(", "),
            })?,
        };
        // As in QEMU, +feature and -feature overrule feature=on and feature=off, wherever they stand.
        let (signed, plain): (Vec<&str>, Vec<&str>) =
            switches.split(',').filter(|switch| !switch.is_empty()).partition(|switch| switch.starts_with(['+', '-']));
        for switch in plain {
            let (name, value) = switch.split_once('=').unwrap_or((switch, "on"));
            if name == "vendor" {
                // Processors do as AMD's do, whatever this says.
                let vendor = value.as_bytes().try_into().ok().filter(|_| value.is_ascii());
                model.vendor = vendor.ok_or_else(|| ModelError::Vendor(value.into()))?;
                continue;
            }
            let on = match value {
                "on" | "yes" | "true" => true,
                "off" | "no" | "false" => false,
                _ => return Err(ModelError::Malformed(switch.into())),
            };
            // What the first two ask for is always done; under KVM physical addresses are the host's, and no feature is there that
            // could not migrate.
            if !matches!(name, "check" | "enforce" | "host-phys-bits" | "migratable") {
                model.features.switch(name, on)?;
            }
        }
        for switch in signed {
            model.features.switch(&switch[1..], switch.starts_with('+'))?;
        }
        model.features = model.features.consistent();
        Ok(model)
    }

    /// Ticks of the time stamp counter in a time.
    pub fn ticks(&self, nanoseconds: u64) -> u64 {
        if self.time_stamp_khz == TIME_STAMP_KHZ {
            return nanoseconds;
        }
        (u128::from(nanoseconds) * u128::from(self.time_stamp_khz) / u128::from(TIME_STAMP_KHZ)) as u64
    }

    /// The time that the time stamp counter takes for so many ticks, as far as 64 bits hold it.
    pub fn nanoseconds(&self, ticks: u64) -> u64 {
        if self.time_stamp_khz == TIME_STAMP_KHZ {
            return ticks;
        }
        let time = u128::from(ticks) * u128::from(TIME_STAMP_KHZ) / u128::from(self.time_stamp_khz.max(1));
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    /// Which instructions it has.
    pub fn instructions(&self) -> InstructionSet {
        self.features.instructions()
    }

    /// The bits that XCR0 may have: components of XSAVE.
    pub fn components(&self) -> u64 {
        match (self.features.has_named("xsave"), self.features.has_named("avx")) {
            (false, _) => 0,
            (true, false) => LEGACY_COMPONENTS,
            (true, true) => LEGACY_COMPONENTS | AVX_COMPONENT,
        }
    }

    /// Family, model and stepping, as leaf 1 and the reset value of EDX give them.
    pub fn signature(&self) -> u32 {
        let extended_family = self.family.saturating_sub(15);
        let family = self.family.min(15);
        extended_family << 20 | (self.model >> 4) << 16 | family << 8 | (self.model & 15) << 4 | self.stepping
    }

    /// Page tables may have 1 GiB pages.
    pub fn has_1_gib_pages(&self) -> bool {
        self.features.has_named("pdpe1gb")
    }

    /// INVPCID.
    pub fn has_invpcid(&self) -> bool {
        self.features.has_named("invpcid")
    }

    /// Linear addresses may have 57 bits.
    pub fn has_5_levels(&self) -> bool {
        self.features.has_named("la57")
    }

    /// The bits of CR4 that may be set.
    pub fn control_4(&self) -> u64 {
        use super::state::*;
        let mut allowed = 0x1fc | CR4_OSFXSR | CR4_OSXMMEXCPT;
        for (name, flag) in [
            ("fsgsbase", CR4_FSGSBASE),
            ("smep", CR4_SMEP),
            ("smap", CR4_SMAP),
            ("xsave", CR4_OSXSAVE),
            ("pcid", CR4_PCIDE),
            ("umip", CR4_UMIP),
            ("la57", CR4_LA57),
        ] {
            if self.features.has_named(name) {
                allowed |= flag;
            }
        }
        allowed
    }

    /// The answer for a leaf and subleaf at the moment.
    pub fn answer(&self, leaf: u32, subleaf: u32, place: Placement, now: Moment) -> Answer {
        match leaf {
            0 => self.vendor_answer(HIGHEST),
            1 => {
                let count = place.count.min(255);
                let ebx = place.id << 24 | count << 16 | 8 << 8;
                let threads = if count > 1 { 1 << 28 } else { 0 };
                let ecx = self.features.word(Word::BasicEcx) | if now.os_xsave { ECX_OSXSAVE } else { 0 };
                [self.signature(), ebx, ecx, self.features.word(Word::BasicEdx) | threads]
            }
            7 if subleaf == 0 => {
                [0, self.features.word(Word::StructuredEbx), self.features.word(Word::StructuredEcx), 0]
            }
            0xb => {
                let shift = place.count.max(1).next_power_of_two().trailing_zeros();
                match subleaf {
                    0 => [0, 1, 1 << 8, place.id],
                    1 => [shift, place.count, 1 | 2 << 8, place.id],
                    _ => [0, 0, subleaf, place.id],
                }
            }
            0xd => self.components_answer(subleaf, now.xcr0),
            0x4000_0000 => [0x4000_0010, 0x6c6f_7242, 0x2061_6167, 0x2020_2020],
            // Frequencies in kHz, of the time stamp counter and of the local APIC's timer.
            0x4000_0010 => [self.time_stamp_khz, LOCAL_APIC_KHZ, 0, 0],
            0x8000_0000 => self.vendor_answer(HIGHEST_EXTENDED),
            0x8000_0001 => {
                let multi = if place.count > 1 { 1 << 1 } else { 0 };
                let repeated = self.features.word(Word::BasicEdx) & REPEATED_EDX;
                let ecx = self.features.word(Word::ExtendedEcx) | multi;
                [self.signature(), 0, ecx, self.features.word(Word::ExtendedEdx) | repeated]
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

    /// The first leaf of a range: the last one, and the vendor, whose letters are in EBX, EDX and ECX.
    fn vendor_answer(&self, highest: u32) -> Answer {
        let [b0, b1, b2, b3, d0, d1, d2, d3, c0, c1, c2, c3] = self.vendor;
        let word = u32::from_le_bytes;
        [highest, word([b0, b1, b2, b3]), word([c0, c1, c2, c3]), word([d0, d1, d2, d3])]
    }

    /// Leaf 0Dh: the components of XSAVE.
    fn components_answer(&self, subleaf: u32, xcr0: u64) -> Answer {
        let components = self.components();
        let size = |components: u64| xsave::area_bytes(components) as u32;
        match subleaf {
            _ if components == 0 => [0; 4],
            0 => [components as u32, size(xcr0), size(components), (components >> 32) as u32],
            1 => {
                let word = self.features.word(Word::Xsave);
                [word, if self.features.has_named("xsavec") { size(xcr0) } else { 0 }, 0, 0]
            }
            2 if components & AVX_COMPONENT != 0 => [xsave::AVX_BYTES as u32, xsave::AVX_OFFSET as u32, 0, 0],
            _ => [0; 4],
        }
    }

    /// All answers that are not zero, at a moment after reset: leaf, subleaf, EAX, EBX, ECX and EDX.
    pub fn entries(&self, place: Placement) -> Vec<(u32, u32, Answer)> {
        let mut entries = Vec::new();
        let ranges = [0..=HIGHEST, 0x4000_0000..=0x4000_0010, 0x8000_0000..=HIGHEST_EXTENDED];
        for leaf in ranges.into_iter().flatten() {
            let subleaves = match leaf {
                7 => 1,
                0xb => 3,
                0xd => 63,
                _ => 1,
            };
            for subleaf in 0..subleaves {
                let answer = self.answer(leaf, subleaf, place, Moment::RESET);
                if answer != [0; 4] {
                    entries.push((leaf, subleaf, answer));
                }
            }
        }
        entries
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

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Placement = Placement { id: 0, count: 1 };

    #[test]
    fn options_switch_features_and_what_needs_them() {
        let model = CpuModel::parse("max,-avx,aes=off").unwrap();
        assert!(!model.features.has_named("avx2") && !model.features.has_named("aes"));
        assert_eq!(model.components(), 0b11);
        let model = CpuModel::parse("qemu64,+avx2,+xsave,+avx,avx=off").unwrap();
        assert!(model.features.has_named("avx2"));
        assert!(CpuModel::parse("base,xsave,host-phys-bits").unwrap().features.has_named("xsave"));
        let model = CpuModel::parse("qemu64,vendor=GenuineIntel").unwrap();
        assert_eq!(model.answer(0, 0, PLACE, Moment::RESET)[1..], [0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
        assert!(matches!(CpuModel::parse("max,vendor=Intel"), Err(ModelError::Vendor(_))));
        assert!(matches!(CpuModel::parse("pentium9"), Err(ModelError::Unknown { .. })));
        assert!(matches!(CpuModel::parse("max,avx=maybe"), Err(ModelError::Malformed(_))));
        assert!(matches!(CpuModel::parse("max,+avx512f"), Err(ModelError::Feature(FeatureError::NotBuilt(_)))));
    }

    #[test]
    fn the_area_of_xsave_is_as_large_as_what_is_enabled() {
        let answer = |model: &str, subleaf, xcr0| {
            CpuModel::named(model).unwrap().answer(0xd, subleaf, PLACE, Moment { os_xsave: true, xcr0 })
        };
        assert_eq!(answer("max", 0, 3), [7, 576, 832, 0]);
        assert_eq!(answer("x86-64-v3", 0, 7), [7, 832, 832, 0]);
        assert_eq!(answer("max", 2, 7), [256, 576, 0, 0]);
        assert_eq!(answer("qemu64", 0, 1), [0; 4]);
    }

    #[test]
    fn models_have_what_their_names_promise() {
        let has = |model: &str, feature: &str| CpuModel::named(model).unwrap().features.has_named(feature);
        assert!(has("x86-64-v3", "avx2") && has("x86-64-v3", "movbe") && !has("x86-64-v2", "avx"));
        assert!(has("x86-64-v2", "popcnt") && !has("qemu64", "popcnt"));
        let entries = CpuModel::named("max").unwrap().entries(PLACE);
        assert!(entries.iter().any(|(leaf, subleaf, answer)| (*leaf, *subleaf, answer[0]) == (0xd, 2, 256)));
    }
}
