//! The x87, MMX, FXSAVE and MXCSR, as code in 64-bit mode sees them.

mod x86_64;

use translate::engine::Tiers;
use translate::x86_64::state;

use x86_64::{CODE, DATA, DATA_BYTES, Ended, Processor};

/// Vector of #UD.
const INVALID_OPCODE: u8 = 6;
/// Vector of #NM.
const NOT_AVAILABLE: u8 = 7;
/// Vector of #GP.
const GENERAL_PROTECTION: u8 = 13;
/// Vector of #MF.
const FLOATING_POINT: u8 = 16;

/// Runs a program, interpreted and then compiled, with the same data; gives what it leaves in memory.
fn run(code: &[u8], data: [u8; DATA_BYTES]) -> (Ended, [u8; DATA_BYTES]) {
    let run = |tiers, times| {
        let mut processor = Processor::new(tiers);
        let program = processor.add_program(code);
        let mut outcome = None;
        for _ in 0..times {
            let mut data = data;
            let ended = processor.run(program, &mut data);
            outcome = Some((ended, data));
        }
        outcome.expect("it ran at least once")
    };
    let interpreted = run(Tiers::InterpreterOnly, 1);
    for tiers in [Tiers::Baseline(1), Tiers::Immediate(1)] {
        assert!(interpreted == run(tiers, 4), "interpreted code and that of {tiers:?} differ");
    }
    interpreted
}

fn with(at: usize, bytes: &[u8]) -> [u8; DATA_BYTES] {
    let mut data = [0; DATA_BYTES];
    data[at..at + bytes.len()].copy_from_slice(bytes);
    data
}

#[test]
fn a_sum_of_a_single_and_a_double_is_stored_as_an_integer() {
    let mut data = with(0, &1.5_f32.to_le_bytes());
    data[8..16].copy_from_slice(&40.5_f64.to_le_bytes());
    // fninit; fld dword [rdi]; fadd qword [rdi+8]; fistp dword [rdi+16]; fnstsw ax; mov [rdi+20], ax
    let code = [0xdb, 0xe3, 0xd9, 0x07, 0xdc, 0x47, 0x08, 0xdb, 0x5f, 0x10, 0xdf, 0xe0, 0x66, 0x89, 0x47, 0x14];
    let (ended, data) = run(&code, data);
    assert_eq!(ended, Ended::Normally);
    assert_eq!(data[16..20], 42_u32.to_le_bytes());
    assert_eq!(data[20..22], [0, 0]);
}

#[test]
fn comparisons_decide_jumps_and_moves() {
    // fld1; fldz; fcomi st1; jb +4; mov byte [rdi], 1 (skipped) ; fcmovb st0, st1; fstp qword [rdi+8]
    let code = [0xd9, 0xe8, 0xd9, 0xee, 0xdb, 0xf1, 0x72, 0x03, 0xc6, 0x07, 0x01, 0xda, 0xc1, 0xdd, 0x5f, 0x08];
    let (ended, data) = run(&code, [0; DATA_BYTES]);
    assert_eq!(ended, Ended::Normally);
    assert_eq!(data[0], 0);
    assert_eq!(data[8..16], 1.0_f64.to_le_bytes());
}

#[test]
fn fxsave_and_fxrstor_keep_everything() {
    // fld1; fldpi; movq xmm9, [rdi+1024]; ldmxcsr [rdi+1032]; fxsave64 [rdi]; fninit; pxor xmm9, xmm9; ldmxcsr [rdi+1036];
    // fxrstor64 [rdi]; fxsave64 [rdi+512]
    let code = [
        0xd9, 0xe8, 0xd9, 0xeb, 0xf3, 0x44, 0x0f, 0x7e, 0x8f, 0x00, 0x04, 0x00, 0x00, 0x0f, 0xae, 0x97, 0x08, 0x04,
        0x00, 0x00, 0x48, 0x0f, 0xae, 0x07, 0xdb, 0xe3, 0x66, 0x45, 0x0f, 0xef, 0xc9, 0x0f, 0xae, 0x97, 0x0c, 0x04,
        0x00, 0x00, 0x48, 0x0f, 0xae, 0x0f, 0x48, 0x0f, 0xae, 0x87, 0x00, 0x02, 0x00, 0x00,
    ];
    let mut data = with(1024, &0x1122_3344_5566_7788_u64.to_le_bytes());
    data[1032..1036].copy_from_slice(&0x7fa5_u32.to_le_bytes());
    data[1036..1040].copy_from_slice(&0x1f80_u32.to_le_bytes());
    let (ended, data) = run(&code, data);
    assert_eq!(ended, Ended::Normally);
    assert_eq!(data[..512], data[512..1024]);
    assert_eq!(data[0..2], [0x7f, 0x03]);
    // Two registers are in use: the top is 6.
    assert_eq!(data[2..5], [0x00, 0x30, 0xc0]);
    // The last instruction's opcode and address.
    assert_eq!(data[6..8], 0x1eb_u16.to_le_bytes());
    assert_eq!(data[8..16], (CODE + 2).to_le_bytes());
    assert_eq!(data[24..28], 0x7fa5_u32.to_le_bytes());
    assert_eq!(data[32..42], [0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40]);
    assert_eq!(data[160 + 9 * 16..][..8], 0x1122_3344_5566_7788_u64.to_le_bytes());
}

#[test]
fn images_that_may_not_be_loaded_raise_general_protection() {
    // fxrstor [rdi] with a reserved bit of MXCSR; fxsave [rdi+8]; ldmxcsr [rdi]
    let bad = with(24, &0x1_1f80_u32.to_le_bytes());
    assert_eq!(run(&[0x0f, 0xae, 0x0f], bad).0, Ended::Exception(GENERAL_PROTECTION, 0));
    assert_eq!(run(&[0x0f, 0xae, 0x47, 0x08], [0; DATA_BYTES]).0, Ended::Exception(GENERAL_PROTECTION, 0));
    let bad = with(0, &0x1_1f80_u32.to_le_bytes());
    assert_eq!(run(&[0x0f, 0xae, 0x17], bad).0, Ended::Exception(GENERAL_PROTECTION, 0));
}

#[test]
fn an_unmasked_exception_is_raised_by_the_next_instruction_that_waits() {
    let data = with(0, &0x37b_u16.to_le_bytes());
    // fldcw [rdi]; fld1; fldz; fdivp; fnstsw ax; mov [rdi+2], ax; nop; fwait
    let code = [0xd9, 0x2f, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xdf, 0xe0, 0x66, 0x89, 0x47, 0x02, 0x90, 0x9b];
    let (ended, data) = run(&code, data);
    assert_eq!(ended, Ended::Exception(FLOATING_POINT, 15));
    // Zero divide, error summary, busy; the stack is as it was: top 6.
    assert_eq!(data[2..4], [0x84, 0xb0]);
    // The same with fld1 and fst qword [rdi+8] last.
    for last in [&[0xd9, 0xe8][..], &[0xdd, 0x57, 0x08][..]] {
        let code = [&code[..15], last].concat();
        assert_eq!(run(&code, data).0, Ended::Exception(FLOATING_POINT, 15));
    }
    // fnclex forgets it.
    let code = [&code[..14], &[0xdb, 0xe2, 0x9b]].concat();
    assert_eq!(run(&code, data).0, Ended::Normally);
}

#[test]
fn a_unit_that_is_not_available_raises() {
    let ends = |code: &[u8], cr0: u64, cr4: u64| {
        let mut processor = Processor::new(Tiers::InterpreterOnly);
        let program = processor.add_program(code);
        processor.reset();
        processor.cpu().guest.cr0 = state::CR0_PE | cr0;
        processor.cpu().guest.cr4 = cr4;
        processor.go_on_at(program)
    };
    let not_available = Ended::Exception(NOT_AVAILABLE, 0);
    let (fld1, fwait) = ([0xd9, 0xe8], [0x9b]);
    let (fxsave, stmxcsr) = ([0x0f, 0xae, 0x07], [0x0f, 0xae, 0x1f]);
    assert_eq!(ends(&fld1, 0, 0), Ended::Normally);
    assert_eq!(ends(&fld1, state::CR0_TS, 0), not_available);
    assert_eq!(ends(&fld1, state::CR0_EM, 0), not_available);
    assert_eq!(ends(&fwait, state::CR0_TS, 0), Ended::Normally);
    assert_eq!(ends(&fwait, state::CR0_TS | state::CR0_MP, 0), not_available);
    assert_eq!(ends(&fxsave, state::CR0_TS, 0), not_available);
    assert_eq!(ends(&fxsave, 0, 0), Ended::Normally);
    assert_eq!(ends(&stmxcsr, 0, 0), Ended::Exception(INVALID_OPCODE, 0));
    assert_eq!(ends(&stmxcsr, state::CR0_TS, state::CR4_OSFXSR), not_available);
    assert_eq!(ends(&stmxcsr, 0, state::CR4_OSFXSR), Ended::Normally);
}

#[test]
fn mmx_takes_the_registers_of_the_x87_until_emms() {
    let mut data = with(0, &[1, 2, 3, 4, 5, 6, 7, 0xff]);
    data[8..16].copy_from_slice(&[10, 20, 30, 40, 50, 60, 70, 1]);
    // movq mm3, [rdi]; paddb mm3, [rdi+8]; movq [rdi+16], mm3; fnstenv [rdi+32]; emms; fnstenv [rdi+64]
    let code = [
        0x0f, 0x6f, 0x1f, 0x0f, 0xfc, 0x5f, 0x08, 0x0f, 0x7f, 0x5f, 0x10, 0xd9, 0x77, 0x20, 0x0f, 0x77, 0xd9, 0x77,
        0x40,
    ];
    let (ended, data) = run(&code, data);
    assert_eq!(ended, Ended::Normally);
    assert_eq!(data[16..24], [11, 22, 33, 44, 55, 66, 77, 0]);
    // No register is empty; then all are.
    assert!((0..8).all(|register| data[40 + register / 4] >> (2 * (register % 4)) & 3 != 3));
    assert_eq!(data[72..74], [0xff, 0xff]);
}

#[test]
fn mmx_raises_as_the_x87_does_and_undefined_opcode_under_emulation() {
    let ends = |cr0: u64| {
        let mut processor = Processor::new(Tiers::InterpreterOnly);
        // paddb mm0, mm1
        let program = processor.add_program(&[0x0f, 0xfc, 0xc1]);
        processor.reset();
        processor.cpu().guest.cr0 = state::CR0_PE | cr0;
        processor.go_on_at(program)
    };
    assert_eq!(ends(0), Ended::Normally);
    assert_eq!(ends(state::CR0_TS), Ended::Exception(NOT_AVAILABLE, 0));
    assert_eq!(ends(state::CR0_EM | state::CR0_TS), Ended::Exception(INVALID_OPCODE, 0));
    // fldcw [rdi]; fld1; fldz; fdivp; paddb mm0, mm1, and emms
    let data = with(0, &0x37b_u16.to_le_bytes());
    for last in [&[0x0f, 0xfc, 0xc1][..], &[0x0f, 0x77]] {
        let code = [&[0xd9, 0x2f, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9], last].concat();
        assert_eq!(run(&code, data).0, Ended::Exception(FLOATING_POINT, 8));
    }
}

#[test]
fn a_faulting_store_leaves_the_unit_as_it_was() {
    // fld1; fstp tbyte [non-canonical]: mov rax, 1 << 62; fstp tbyte [rax]
    let code = [0xd9, 0xe8, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x40, 0xdb, 0x38];
    let mut processor = Processor::new(Tiers::InterpreterOnly);
    let program = processor.add_program(&code);
    processor.reset();
    assert_eq!(processor.go_on_at(program), Ended::Exception(GENERAL_PROTECTION, 12));
    let unit = processor.cpu().guest.x87;
    assert_eq!((unit.top(), unit.tags), (7, 0x80));
    assert_eq!((unit.opcode, unit.instruction_pointer), (0x1e8, program));
}

#[test]
fn operands_must_lie_within_their_segment() {
    let ends = |code: &[u8], limit: u32| {
        let mut processor = Processor::new(Tiers::InterpreterOnly);
        let program = processor.add_program(code);
        processor.reset_32(limit);
        processor.go_on_at(program)
    };
    let end = DATA as u32;
    let fault = Ended::Exception(GENERAL_PROTECTION, 0);
    // fxsave [edi]; fstp tbyte [edi]; fnsave [edi]; fnstenv with 16-bit operands
    let cases = [(&[0x0f, 0xae, 0x07][..], 512), (&[0xdb, 0x3f], 10), (&[0xdd, 0x37], 108), (&[0x66, 0xd9, 0x37], 14)];
    for (code, bytes) in cases {
        assert_eq!(ends(code, end + bytes - 1), Ended::Normally, "{code:02x?}");
        assert_eq!(ends(code, end + bytes - 2), fault, "{code:02x?}");
    }
}
