//! Features of processors: their names, where CPUID shows them, and which instructions come with them.

use iced_x86::{CpuidFeature, Instruction};

/// A register of CPUID whose bits are features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Leaf 1, EDX.
    BasicEdx,
    /// Leaf 1, ECX.
    BasicEcx,
    /// Leaf 7, EBX.
    StructuredEbx,
    /// Leaf 7, ECX.
    StructuredEcx,
    /// Leaf 8000_0001h, EDX, but for the bits that repeat leaf 1's.
    ExtendedEdx,
    /// Leaf 8000_0001h, ECX.
    ExtendedEcx,
    /// Leaf 0Dh, subleaf 1, EAX.
    Xsave,
}

const WORDS: usize = 7;

/// A feature that a model may have.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// The name that `-cpu` takes, QEMU's.
    pub name: &'static str,
    /// Where CPUID shows it.
    pub word: Word,
    /// The bit there.
    pub bit: u32,
    /// The feature without which there cannot be this one; empty: none.
    requires: &'static str,
    /// What the decoder calls the instructions that come with it. PREFETCHW comes with long mode, so with every model.
    instructions: &'static [CpuidFeature],
}

macro_rules! features {
    ($($word:ident: $($bit:literal $name:literal $(needs $requires:literal)? $([$($instructions:ident)*])?,)*)*) => {
        &[$($(
            Feature {
                name: $name,
                word: Word::$word,
                bit: $bit,
                requires: concat!($($requires)?),
                instructions: &[$($(CpuidFeature::$instructions),*)?],
            },
        )*)*]
    };
}

/// All features that are built.
pub const FEATURES: &[Feature] = features! {
    BasicEdx:
        0 "fpu" [FPU FPU287 FPU387], 2 "de", 3 "pse", 4 "tsc" [TSC], 5 "msr" [MSR], 6 "pae", 7 "mce",
        8 "cx8" [CX8], 9 "apic", 11 "sep" [SEP], 12 "mtrr", 13 "pge", 14 "mca", 15 "cmov" [CMOV], 16 "pat",
        17 "pse36", 19 "clflush" [CLFSH], 23 "mmx" [MMX], 24 "fxsr" [FXSR], 25 "sse" needs "fxsr" [SSE],
        26 "sse2" needs "sse" [SSE2],
    BasicEcx:
        0 "pni" needs "sse2" [SSE3], 1 "pclmulqdq" needs "sse2" [PCLMULQDQ], 9 "ssse3" needs "pni" [SSSE3],
        12 "fma" needs "avx" [FMA], 13 "cx16" [CMPXCHG16B], 17 "pcid", 19 "sse4.1" needs "ssse3" [SSE4_1],
        20 "sse4.2" needs "sse4.1" [SSE4_2], 21 "x2apic" needs "apic", 22 "movbe" [MOVBE], 23 "popcnt" [POPCNT],
        24 "tsc-deadline" needs "apic", 25 "aes" needs "sse2" [AES], 26 "xsave" [XSAVE],
        28 "avx" needs "xsave" [AVX], 29 "f16c" needs "avx" [F16C], 30 "rdrand" [RDRAND], 31 "hypervisor",
    StructuredEbx:
        0 "fsgsbase" [FSGSBASE], 1 "tsc-adjust", 3 "bmi1" [BMI1], 5 "avx2" needs "avx" [AVX2], 7 "smep",
        8 "bmi2" [BMI2], 9 "erms", 10 "invpcid" [INVPCID], 18 "rdseed" [RDSEED], 19 "adx" [ADX], 20 "smap" [SMAP],
        23 "clflushopt" [CLFLUSHOPT],
        29 "sha-ni" needs "sse2" [SHA],
    StructuredEcx:
        2 "umip", 9 "vaes" needs "avx" [VAES], 10 "vpclmulqdq" needs "avx" [VPCLMULQDQ], 16 "la57",
    ExtendedEdx:
        11 "syscall" [SYSCALL], 20 "nx", 26 "pdpe1gb", 27 "rdtscp" [RDTSCP], 29 "lm",
    ExtendedEcx:
        0 "lahf-lm", 5 "abm" [LZCNT], 8 "3dnowprefetch",
    Xsave:
        0 "xsaveopt" needs "xsave" [XSAVEOPT], 1 "xsavec" needs "xsave" [XSAVEC], 2 "xgetbv1" needs "xsave",
};

/// Instructions that no model shows to have, whatever the decoder knows.
const NEVER: &[CpuidFeature] = &[
    CpuidFeature::RDPID,
    CpuidFeature::MONITOR,
    CpuidFeature::MONITORX,
    CpuidFeature::CLWB,
    CpuidFeature::XSAVES,
    CpuidFeature::WBNOINVD,
];

/// Names of QEMU's that mean nothing here when they are switched off, and cannot be switched on.
const NOT_BUILT: &[&str] = &[
    "vme",
    "ht",
    "pn",
    "ss",
    "tm",
    "ia64",
    "pbe",
    "acpi",
    "ds",
    "dtes64",
    "monitor",
    "ds-cpl",
    "vmx",
    "smx",
    "est",
    "tm2",
    "cid",
    "xtpr",
    "pdcm",
    "dca",
    "hle",
    "rtm",
    "mpx",
    "rdt-a",
    "avx512f",
    "avx512dq",
    "avx512ifma",
    "avx512cd",
    "avx512bw",
    "avx512vl",
    "avx512vbmi",
    "avx512vbmi2",
    "avx512vnni",
    "avx512bitalg",
    "avx512-vpopcntdq",
    "avx512-bf16",
    "avx512-fp16",
    "avx-vnni",
    "clwb",
    "intel-pt",
    "pku",
    "ospke",
    "waitpkg",
    "gfni",
    "rdpid",
    "bus-lock-detect",
    "cldemote",
    "movdiri",
    "movdir64b",
    "pks",
    "fsrm",
    "serialize",
    "spec-ctrl",
    "stibp",
    "ssbd",
    "arch-capabilities",
    "core-capability",
    "mmxext",
    "fxsr-opt",
    "3dnow",
    "3dnowext",
    "cmp-legacy",
    "svm",
    "extapic",
    "cr8legacy",
    "sse4a",
    "misalignsse",
    "osvw",
    "ibs",
    "xop",
    "skinit",
    "wdt",
    "lwp",
    "fma4",
    "tce",
    "nodeid-msr",
    "tbm",
    "topoext",
    "perfctr-core",
    "perfctr-nb",
    "invtsc",
    "clzero",
    "xsaveerptr",
    "wbnoinvd",
    "ibpb",
    "npt",
    "xsaves",
    "arat",
    "kvmclock",
    "pmu",
];

/// Other names of features.
const ALIASES: &[(&str, &str)] = &[
    ("sse3", "pni"),
    ("sse4-1", "sse4.1"),
    ("sse4-2", "sse4.2"),
    ("pclmuldq", "pclmulqdq"),
    ("i64", "lm"),
    ("xd", "nx"),
    ("lzcnt", "abm"),
    ("tscdeadline", "tsc-deadline"),
];

/// A feature's name is not known, or the feature is not built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// No feature is called so.
    #[error("{0:?} is no processor feature; '-cpu help' lists them")]
    Unknown(String),
    /// It cannot be switched on.
    #[error("the feature {0} is not built and can only be off")]
    NotBuilt(String),
}

impl Feature {
    /// The feature with a name, in which - and _ are the same.
    pub fn named(name: &str) -> Option<&'static Feature> {
        let name = name.to_ascii_lowercase().replace('_', "-");
        let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name.as_str(), |(_, name)| name);
        FEATURES.iter().find(|feature| feature.name == name)
    }
}

/// The features of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureSet([u32; WORDS]);

impl FeatureSet {
    /// No features.
    pub const NONE: FeatureSet = FeatureSet([0; WORDS]);

    /// All that are built.
    pub fn all() -> FeatureSet {
        FEATURES.iter().fold(FeatureSet::NONE, |set, feature| set.with(feature, true))
    }

    /// These features and those that are named; for the names of [`FEATURES`].
    pub(super) fn and(self, names: &[&str]) -> FeatureSet {
        names.iter().filter_map(|name| Feature::named(name)).fold(self, |set, feature| set.with(feature, true))
    }

    fn with(self, feature: &Feature, on: bool) -> FeatureSet {
        let mut set = self;
        let (word, bit) = (&mut set.0[feature.word as usize], 1 << feature.bit);
        *word = if on { *word | bit } else { *word & !bit };
        set
    }

    /// Takes a feature away, and those that there cannot be without it.
    pub fn remove(&mut self, feature: &Feature) {
        *self = self.with(feature, false).consistent();
    }

    /// Switches a feature on or off by its name.
    pub fn switch(&mut self, name: &str, on: bool) -> Result<(), FeatureError> {
        let Some(feature) = Feature::named(name) else {
            let normal = name.to_ascii_lowercase().replace('_', "-");
            return match NOT_BUILT.contains(&normal.as_str()) {
                true if on => Err(FeatureError::NotBuilt(normal)),
                true => Ok(()),
                false => Err(FeatureError::Unknown(name.into())),
            };
        };
        *self = self.with(feature, on);
        Ok(())
    }

    /// Without features that lack what they require.
    pub fn consistent(self) -> FeatureSet {
        let mut set = self;
        loop {
            let before = set;
            for feature in FEATURES {
                if Feature::named(feature.requires).is_some_and(|required| !set.has(required)) {
                    set = set.with(feature, false);
                }
            }
            if set == before {
                return set;
            }
        }
    }

    /// The bits of a register.
    pub fn word(&self, word: Word) -> u32 {
        self.0[word as usize]
    }

    /// Whether a feature is among them.
    pub fn has(&self, feature: &Feature) -> bool {
        self.word(feature.word) >> feature.bit & 1 != 0
    }

    /// Whether the feature with a name is among them.
    pub fn has_named(&self, name: &str) -> bool {
        Feature::named(name).is_some_and(|feature| self.has(feature))
    }

    /// Which instructions there are.
    pub fn instructions(&self) -> InstructionSet {
        let absent = FEATURES.iter().filter(|feature| !self.has(feature)).flat_map(|feature| feature.instructions);
        let mut set = InstructionSet::default();
        for named in absent.chain(NEVER) {
            set.absent[*named as usize / 64] |= 1 << (*named as usize % 64);
        }
        set
    }
}

/// Which instructions a processor has: all that are built, but for those of absent features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InstructionSet {
    /// One bit for each of the decoder's features.
    absent: [u64; 4],
}

impl InstructionSet {
    /// The instructions of a feature, as the decoder calls it, are there.
    pub fn has(&self, named: CpuidFeature) -> bool {
        self.absent.get(named as usize / 64).is_none_or(|word| word >> (named as usize % 64) & 1 == 0)
    }

    /// An instruction is there.
    pub fn contains(&self, instruction: &Instruction) -> bool {
        instruction.cpuid_features().iter().all(|named| self.has(*named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_its_foundation_goes_and_names_are_found_in_any_spelling() {
        let mut set = FeatureSet::all();
        set.switch("XSAVE", false).unwrap();
        let set = set.consistent();
        assert!(["avx2", "fma", "vaes", "xsavec"].iter().all(|name| !set.has_named(name)));
        assert!(set.has_named("sse4_1") && set.has_named("sse4.2") && set.has_named("lahf_lm"));
        assert!(!set.instructions().has(CpuidFeature::AVX) && set.instructions().has(CpuidFeature::SSE4_2));
    }

    #[test]
    fn unknown_features_are_refused_and_those_not_built_may_be_off() {
        let mut set = FeatureSet::all();
        assert_eq!(set.switch("vmx", false), Ok(()));
        assert_eq!(set.switch("vmx", true), Err(FeatureError::NotBuilt("vmx".into())));
        assert!(set.switch("avx3", true).unwrap_err().to_string().contains("avx3"));
    }

    #[test]
    fn requirements_name_features() {
        for feature in FEATURES {
            assert!(feature.requires.is_empty() || Feature::named(feature.requires).is_some(), "{feature:?}");
            assert_eq!(Feature::named(feature.name).map(|found| found.name), Some(feature.name));
        }
    }
}
