//! What a processor model lacks raises #UD, and what VEX needs of the system is looked at.

use translate::guest::Guest;
use translate::ir::Terminator;
use translate::x86_64::X86_64;
use translate::x86_64::cpuid::CpuModel;

/// Translation flags of flat 64-bit code with CR4.OSFXSR, and those of CR4.OSXSAVE with SSE and AVX in XCR0.
const SSE: u32 = 0x1_1fb8;
const AVX: u32 = SSE | 1 << 17 | 1 << 25;

/// The exception that the first instruction of `code` raises whatever its operands are.
fn raised(model: &str, flags: u32, code: &[u8]) -> Option<u32> {
    let code = [code, &[0xcc; 16]].concat();
    let instructions = CpuModel::parse(model).unwrap().instructions();
    match X86_64::lift(0x1000, &code, flags, instructions, 1).unwrap().terminator {
        Terminator::Raise { exception, .. } => Some(exception),
        _ => None,
    }
}

const INVALID_OPCODE: u32 = 6;

#[test]
fn each_model_has_its_instructions_and_no_others() {
    // popcnt eax, eax; movbe eax, [rax]; pshufb xmm0, xmm0; aesenc xmm0, xmm0; vaddps ymm0, ymm0, ymm0; vpaddb ymm0, ymm0, ymm0;
    // vfmadd213ps xmm0, xmm0, xmm0; sha1msg1 xmm0, xmm0; andn eax, eax, eax; cmpxchg16b [rax]; addps xmm0, xmm0
    let cases: [(&[u8], [bool; 4]); 11] = [
        (&[0xf3, 0x0f, 0xb8, 0xc0], [false, true, true, true]),
        (&[0x0f, 0x38, 0xf0, 0x00], [false, false, true, true]),
        (&[0x66, 0x0f, 0x38, 0x00, 0xc0], [false, true, true, true]),
        (&[0x66, 0x0f, 0x38, 0xdc, 0xc0], [false, false, false, true]),
        (&[0xc5, 0xfc, 0x58, 0xc0], [false, false, true, true]),
        (&[0xc5, 0xfd, 0xfc, 0xc0], [false, false, true, true]),
        (&[0xc4, 0xe2, 0x79, 0xa8, 0xc0], [false, false, true, true]),
        (&[0x0f, 0x38, 0xc9, 0xc0], [false, false, false, true]),
        (&[0xc4, 0xe2, 0x78, 0xf2, 0xc0], [false, false, true, true]),
        (&[0x48, 0x0f, 0xc7, 0x08], [true; 4]),
        (&[0x0f, 0x58, 0xc0], [true; 4]),
    ];
    for (code, expected) in cases {
        for (model, there) in ["qemu64", "x86-64-v2", "x86-64-v3", "max"].into_iter().zip(expected) {
            let result = raised(model, AVX, code);
            assert_eq!(result, if there { None } else { Some(INVALID_OPCODE) }, "{model}: {code:x?}");
        }
    }
    assert_eq!(raised("max,-fma", AVX, &[0xc4, 0xe2, 0x79, 0xa8, 0xc0]), Some(INVALID_OPCODE));
    // lzcnt eax, eax is then bsr eax, eax.
    assert_eq!(raised("qemu64", SSE, &[0xf3, 0x0f, 0xbd, 0xc0]), None);
}

#[test]
fn vex_needs_the_systems_consent_and_protected_mode() {
    let vaddps = [0xc5, 0xf8, 0x58, 0xc0];
    assert_eq!(raised("max", AVX, &vaddps), None);
    assert_eq!(raised("max", SSE, &vaddps), Some(INVALID_OPCODE));
    // An unused register operand, and a length that there is not: vsqrtps xmm0, xmm0 with another register; vmovd ymm0, eax.
    assert_eq!(raised("max", AVX, &[0xc5, 0xf0, 0x51, 0xc0]), Some(INVALID_OPCODE));
    assert_eq!(raised("max", AVX, &[0xc5, 0xfd, 0x6e, 0xc0]), Some(INVALID_OPCODE));
    // Behind a prefix, in real mode, and with EVEX.
    assert_eq!(raised("max", AVX, &[0x66, 0xc5, 0xf8, 0x58, 0xc0]), Some(INVALID_OPCODE));
    assert_eq!(raised("max", AVX & !0x2c, &vaddps), Some(INVALID_OPCODE));
    assert_eq!(raised("max", AVX, &[0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc0]), Some(INVALID_OPCODE));
    // xsave [rax], vaddps with CR0.TS.
    assert_eq!(raised("max", SSE, &[0x0f, 0xae, 0x20]), Some(INVALID_OPCODE));
    assert_eq!(raised("max", AVX | 1 << 13, &vaddps), Some(7));
}
