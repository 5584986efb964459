//! Encodings by form: which opcodes there are, how often each kind is to come, and which instructions are left out.

use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::random::Random;

/// Kinds of instructions that can be switched on and off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Integer,
    X87,
    /// What has MMX registers.
    Mmx,
    Sse,
    /// What is encoded with VEX and has vector registers.
    Avx,
}

impl Group {
    pub(crate) const ALL: [Group; 5] = [Group::Integer, Group::X87, Group::Mmx, Group::Sse, Group::Avx];

    /// What an instruction belongs to.
    pub(crate) fn of(instruction: &Instruction) -> Group {
        let any = |is: fn(Register) -> bool| {
            (0..instruction.op_count())
                .any(|index| instruction.op_kind(index) == OpKind::Register && is(instruction.op_register(index)))
        };
        let features = instruction.cpuid_features();
        if features.iter().any(|feature| FLOAT.contains(feature)) {
            Group::X87
        } else if instruction.code().encoding() == EncodingKind::VEX
            && (any(Register::is_vector_register)
                || matches!(instruction.mnemonic(), Mnemonic::Vzeroall | Mnemonic::Vzeroupper | Mnemonic::Vstmxcsr))
        {
            Group::Avx
        } else if any(Register::is_mm) || instruction.mnemonic() == Mnemonic::Emms {
            Group::Mmx
        } else if any(Register::is_vector_register)
            || matches!(instruction.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr)
        {
            Group::Sse
        } else {
            Group::Integer
        }
    }

    pub(crate) fn named(name: &str) -> Option<Group> {
        match name {
            "integer" => Some(Group::Integer),
            "x87" => Some(Group::X87),
            "mmx" => Some(Group::Mmx),
            "sse" => Some(Group::Sse),
            "avx" => Some(Group::Avx),
            _ => None,
        }
    }
}

/// Where an opcode is.
#[derive(Clone, Copy)]
enum Map {
    One,
    /// 0F.
    Two,
    /// 0F 38.
    Three38,
    /// 0F 3A.
    Three3a,
    /// VEX with map 0F 38, and the prefix that is folded in: 0 none, 1 66, 2 F3, 3 F2.
    Vex38(u8),
    /// VEX.F2 with map 0F 3A.
    Vex3a,
    /// VEX with this map and one of the form's prefixes, on vectors.
    Vex(u8),
}

/// Opcodes of one kind.
struct Form {
    group: Group,
    weight: u64,
    map: Map,
    /// First and last.
    opcodes: (u8, u8),
    /// Prefixes of which one must be there; 0 stands for none.
    prefixes: &'static [u8],
    /// Values of ModRM.reg that there are; empty: all.
    reg: &'static [u8],
}

const fn form(weight: u64, map: Map, first: u8, last: u8) -> Form {
    Form { group: Group::Integer, weight, map, opcodes: (first, last), prefixes: &[], reg: &[] }
}

const fn digits(weight: u64, map: Map, first: u8, last: u8, reg: &'static [u8]) -> Form {
    Form { reg, ..form(weight, map, first, last) }
}

const fn prefixed(weight: u64, map: Map, first: u8, last: u8, prefixes: &'static [u8]) -> Form {
    Form { prefixes, ..form(weight, map, first, last) }
}

const fn vector(weight: u64, map: Map, first: u8, last: u8) -> Form {
    Form { group: Group::Sse, ..prefixed(weight, map, first, last, &[0, 0x66, 0xf2, 0xf3]) }
}

/// `prefixes`: those that are folded in, as VEX encodes them.
const fn vex(weight: u64, map: u8, first: u8, last: u8, prefixes: &'static [u8]) -> Form {
    Form { group: Group::Avx, ..prefixed(weight, Map::Vex(map), first, last, prefixes) }
}

const ANY: &[u8] = &[0, 1, 2, 3];

const FORMS: &[Form] = &[
    form(60, Map::One, 0x00, 0x3d),
    form(6, Map::One, 0x63, 0x63),
    form(8, Map::One, 0x69, 0x69),
    form(8, Map::One, 0x6b, 0x6b),
    form(30, Map::One, 0x80, 0x83),
    form(8, Map::One, 0x84, 0x85),
    form(12, Map::One, 0x86, 0x87),
    form(20, Map::One, 0x88, 0x8b),
    form(8, Map::One, 0x8d, 0x8d),
    digits(4, Map::One, 0x8f, 0x8f, &[0]),
    form(6, Map::One, 0x90, 0x97),
    form(6, Map::One, 0x98, 0x99),
    form(4, Map::One, 0x9c, 0x9c),
    form(4, Map::One, 0x9e, 0x9f),
    form(4, Map::One, 0xa0, 0xa3),
    form(14, Map::One, 0xa4, 0xa7),
    form(4, Map::One, 0xa8, 0xa9),
    form(16, Map::One, 0xaa, 0xaf),
    form(8, Map::One, 0xb0, 0xbf),
    form(20, Map::One, 0xc0, 0xc1),
    form(6, Map::One, 0xc6, 0xc7),
    form(3, Map::One, 0xc8, 0xc9),
    form(24, Map::One, 0xd0, 0xd3),
    form(2, Map::One, 0xd7, 0xd7),
    form(40, Map::One, 0xf6, 0xf7),
    form(8, Map::One, 0xfe, 0xff),
    form(6, Map::One, 0x50, 0x5f),
    digits(3, Map::One, 0xff, 0xff, &[6]),
    form(3, Map::One, 0x68, 0x68),
    form(3, Map::One, 0x6a, 0x6a),
    form(6, Map::One, 0xf5, 0xfd),
    form(10, Map::Two, 0x40, 0x4f),
    form(8, Map::Two, 0x90, 0x9f),
    form(16, Map::Two, 0xa3, 0xa5),
    form(4, Map::Two, 0xab, 0xab),
    form(8, Map::Two, 0xac, 0xad),
    form(8, Map::Two, 0xaf, 0xaf),
    form(10, Map::Two, 0xb0, 0xb1),
    form(4, Map::Two, 0xb3, 0xb3),
    form(8, Map::Two, 0xb6, 0xb7),
    digits(12, Map::Two, 0xba, 0xba, &[4, 5, 6, 7]),
    form(6, Map::Two, 0xbb, 0xbf),
    prefixed(10, Map::Two, 0xbc, 0xbd, &[0, 0xf3]),
    form(8, Map::Two, 0xc0, 0xc1),
    form(2, Map::Two, 0xc3, 0xc3),
    digits(10, Map::Two, 0xc7, 0xc7, &[1]),
    form(6, Map::Two, 0xc8, 0xcf),
    prefixed(4, Map::Two, 0xb8, 0xb8, &[0xf3]),
    form(3, Map::Two, 0x18, 0x1f),
    form(1, Map::Two, 0x0d, 0x0d),
    prefixed(8, Map::Three38, 0xf0, 0xf1, &[0, 0xf2, 0xf2]),
    prefixed(6, Map::Three38, 0xf6, 0xf6, &[0x66, 0xf3]),
    form(4, Map::Vex38(0), 0xf2, 0xf2),
    digits(5, Map::Vex38(0), 0xf3, 0xf3, &[1, 2, 3]),
    form(3, Map::Vex38(0), 0xf5, 0xf5),
    form(3, Map::Vex38(2), 0xf5, 0xf5),
    form(3, Map::Vex38(3), 0xf5, 0xf5),
    form(3, Map::Vex38(3), 0xf6, 0xf6),
    form(3, Map::Vex38(0), 0xf7, 0xf7),
    form(3, Map::Vex38(1), 0xf7, 0xf7),
    form(3, Map::Vex38(2), 0xf7, 0xf7),
    form(3, Map::Vex38(3), 0xf7, 0xf7),
    form(4, Map::Vex3a, 0xf0, 0xf0),
    Form { group: Group::X87, ..form(200, Map::One, 0xd8, 0xdf) },
    vector(30, Map::Two, 0x10, 0x17),
    vector(40, Map::Two, 0x28, 0x2f),
    vector(70, Map::Two, 0x50, 0x5f),
    vector(50, Map::Two, 0x60, 0x7f),
    vector(16, Map::Two, 0xc2, 0xc6),
    vector(60, Map::Two, 0xd0, 0xfe),
    digits(4, Map::Two, 0xae, 0xae, &[2, 3, 5, 6, 7]),
    Form { prefixes: &[0, 0x66], ..vector(40, Map::Three38, 0x00, 0x41) },
    Form { prefixes: &[0, 0x66], ..vector(12, Map::Three38, 0xc8, 0xdf) },
    Form { prefixes: &[0, 0x66], ..vector(20, Map::Three3a, 0x08, 0x22) },
    Form { prefixes: &[0x66], ..vector(16, Map::Three3a, 0x40, 0x63) },
    Form { prefixes: &[0, 0x66], ..vector(3, Map::Three3a, 0xcc, 0xdf) },
    vex(40, 1, 0x10, 0x17, ANY),
    vex(40, 1, 0x28, 0x2f, ANY),
    vex(70, 1, 0x50, 0x5f, ANY),
    vex(50, 1, 0x60, 0x7f, ANY),
    vex(2, 1, 0x77, 0x77, &[0]),
    vex(2, 1, 0xae, 0xae, &[0]),
    vex(20, 1, 0xc2, 0xc6, ANY),
    vex(60, 1, 0xd0, 0xfe, ANY),
    vex(50, 2, 0x00, 0x1e, &[1]),
    vex(40, 2, 0x20, 0x47, &[1]),
    vex(20, 2, 0x58, 0x5a, &[1]),
    vex(8, 2, 0x78, 0x79, &[1]),
    vex(20, 2, 0x8c, 0x8e, &[1]),
    vex(16, 2, 0x90, 0x93, &[1]),
    vex(80, 2, 0x96, 0xbf, &[1]),
    vex(8, 2, 0xdb, 0xdf, &[1]),
    vex(30, 3, 0x00, 0x22, &[1]),
    vex(8, 3, 0x38, 0x39, &[1]),
    vex(20, 3, 0x40, 0x4c, &[1]),
    vex(6, 3, 0x60, 0x63, &[1]),
    vex(2, 3, 0xdf, 0xdf, &[1]),
];

/// CPUID features of instructions that every backend executes.
const FEATURES: &[CpuidFeature] = {
    use CpuidFeature as F;
    &[
        F::INTEL8086,
        F::INTEL186,
        F::INTEL286,
        F::INTEL386,
        F::INTEL486,
        F::X64,
        F::CMOV,
        F::CX8,
        F::CMPXCHG16B,
        F::POPCNT,
        F::LZCNT,
        F::BMI1,
        F::BMI2,
        F::ADX,
        F::MOVBE,
        F::MULTIBYTENOP,
        F::PREFETCHW,
        F::FPU,
        F::FPU287,
        F::FPU387,
        F::MMX,
        F::SSE,
        F::SSE2,
        F::SSE3,
        F::SSSE3,
        F::SSE4_1,
        F::SSE4_2,
        F::CLFSH,
        F::CLFLUSHOPT,
        F::AES,
        F::PCLMULQDQ,
        F::SHA,
        F::AVX,
        F::AVX2,
        F::FMA,
        F::F16C,
        F::VAES,
        F::VPCLMULQDQ,
    ]
};

const FLOAT: [CpuidFeature; 3] = [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387];

/// Instructions whose results differ from one execution to the next or from host to host (RCPPS and transcendental functions are approximate; PAUSE
/// with REX.B is an exchange on some; whether what is left of the 8087's and 80287's instructions waits for exceptions differs), that talk to the system, or that
/// the generator makes by itself.
const LEFT_OUT: &[Mnemonic] = {
    use Mnemonic as M;
    &[
        M::Sgdt,
        M::Sidt,
        M::Sldt,
        M::Str,
        M::Smsw,
        M::Lar,
        M::Lsl,
        M::Verr,
        M::Verw,
        M::Cpuid,
        M::Rdtsc,
        M::Rdtscp,
        M::Rdpmc,
        M::In,
        M::Out,
        M::Insb,
        M::Insw,
        M::Insd,
        M::Outsb,
        M::Outsw,
        M::Outsd,
        M::Popf,
        M::Popfd,
        M::Popfq,
        M::Int,
        M::Int1,
        M::Int3,
        M::Into,
        M::Lss,
        M::Lfs,
        M::Lgs,
        M::Fxsave,
        M::Fxsave64,
        M::Fxrstor,
        M::Fxrstor64,
        M::Fnsave,
        M::Frstor,
        M::Fnstenv,
        M::Fldenv,
        M::Pause,
        M::Ldmxcsr,
        M::Vldmxcsr,
        M::Frstpm,
        M::Feni,
        M::Fdisi,
        M::Fsetpm,
        M::F2xm1,
        M::Fyl2x,
        M::Fyl2xp1,
        M::Fptan,
        M::Fpatan,
        M::Fsin,
        M::Fcos,
        M::Fsincos,
        M::Rcpps,
        M::Rcpss,
        M::Rsqrtps,
        M::Rsqrtss,
        M::Vrcpps,
        M::Vrcpss,
        M::Vrsqrtps,
        M::Vrsqrtss,
    ]
};

/// Every backend has the instruction.
pub(crate) fn has_known_features(instruction: &Instruction) -> bool {
    instruction.cpuid_features().iter().all(|feature| FEATURES.contains(feature))
}

/// Whether random programs may have the instruction.
pub(crate) fn allowed(instruction: &Instruction, groups: &[Group]) -> bool {
    let segment_register =
        |index| instruction.op_kind(index) == OpKind::Register && instruction.op_register(index).is_segment_register();
    !instruction.is_invalid()
        && instruction.flow_control() == FlowControl::Next
        && groups.contains(&Group::of(instruction))
        && !instruction.is_privileged()
        && has_known_features(instruction)
        // AMD's processors refuse registers as operands of prefetches, others do not.
        && !(instruction.mnemonic() == Mnemonic::Reservednop && instruction.op0_kind() == OpKind::Register)
        // AMD's processors read four bytes.
        && instruction.code() != Code::Movsxd_r16_rm16
        && !LEFT_OUT.contains(&instruction.mnemonic())
        && !(0..instruction.op_count()).any(segment_register)
}

/// SSE's opcodes are MMX's as well.
fn wanted(form: &Form, groups: &[Group]) -> bool {
    groups.contains(&form.group) || form.group == Group::Sse && groups.contains(&Group::Mmx)
}

/// Random bytes of an encoding of one of the forms of `groups`; what follows the opcode goes on beyond its end.
pub(crate) fn encoding(random: &mut Random, groups: &[Group]) -> Vec<u8> {
    let mut total = 0;
    for form in FORMS.iter().filter(|form| wanted(form, groups)) {
        total += form.weight;
    }
    let mut chosen = random.below(total);
    let form = FORMS.iter().filter(|form| wanted(form, groups)).find(|form| {
        let found = chosen < form.weight;
        chosen = chosen.wrapping_sub(form.weight);
        found
    });
    encode(random, form.expect("the weights add up"))
}

fn encode(random: &mut Random, form: &Form) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    let vex = matches!(form.map, Map::Vex38(_) | Map::Vex3a | Map::Vex(_));
    if random.once_in(16) {
        bytes.push(random.pick(&[0x64, 0x65]));
    } else if random.once_in(64) {
        bytes.push(random.pick(&[0x26, 0x2e, 0x36, 0x3e]));
    }
    if random.once_in(20) {
        bytes.push(0x67);
    }
    if !vex {
        match form.prefixes {
            [] => {
                if random.once_in(4) {
                    bytes.push(0x66);
                }
                let string = matches!(form.map, Map::One) && matches!(form.opcodes.0, 0xa4 | 0xaa);
                if random.once_in(if string { 2 } else { 32 }) {
                    bytes.push(random.pick(&[0xf2, 0xf3]));
                }
                if random.once_in(10) {
                    bytes.push(0xf0);
                }
            }
            prefixes => {
                if form.group == Group::Integer && random.once_in(5) {
                    bytes.push(0x66);
                }
                bytes.extend(Some(random.pick(prefixes)).filter(|prefix| *prefix != 0));
            }
        }
        if random.below(8) < 5 {
            let wide = if random.once_in(2) { 8 } else { 0 };
            bytes.push(0x40 | wide | random.below(8) as u8);
        }
    }
    match form.map {
        Map::One => {}
        Map::Two => bytes.push(0x0f),
        Map::Three38 => bytes.extend([0x0f, 0x38]),
        Map::Three3a => bytes.extend([0x0f, 0x3a]),
        Map::Vex38(_) | Map::Vex3a => {
            let (map, prefix) = if let Map::Vex38(prefix) = form.map { (2, prefix) } else { (3, 3) };
            let register = if matches!(form.map, Map::Vex3a) { 15 } else { random.below(16) as u8 };
            let wide = (random.below(2) as u8) << 7;
            bytes.extend([0xc4, (random.below(8) as u8) << 5 | map, wide | register << 3 | prefix]);
        }
        Map::Vex(map) => {
            let (prefix, length) = (random.pick(form.prefixes), (random.below(2) as u8) << 2);
            // Many have no such operand, and want ones there.
            let register = if random.once_in(3) { 15 } else { random.below(16) as u8 };
            if map == 1 && random.once_in(2) {
                bytes.extend([0xc5, (random.below(2) as u8) << 7 | register << 3 | length | prefix]);
            } else {
                let wide = (random.below(2) as u8) << 7;
                bytes.extend([0xc4, (random.below(8) as u8) << 5 | map, wide | register << 3 | length | prefix]);
            }
        }
    }
    let (first, last) = form.opcodes;
    bytes.push(first + random.below(u64::from(last - first) + 1) as u8);
    let mode = random.pick(&[0, 1, 1, 2, 3, 3, 3]);
    let reg = if form.reg.is_empty() { random.below(8) as u8 } else { random.pick(form.reg) };
    bytes.push(mode << 6 | reg << 3 | random.below(8) as u8);
    for _ in 0..16 {
        let byte = random.next() as u8;
        bytes.push(if random.once_in(4) { random.pick(&[0, 1, 0xff, 0x7f, 0x80]) } else { byte });
    }
    bytes
}
