//! Instructions that change what lifted code depends on are followed by what that change asks for, also where compiled code goes on by itself:
//! an interrupt that was pending is taken at the instruction behind the one that enables it.

#[path = "riscv64/machine.rs"]
mod machine;

use translate::engine::Tiers;

const START: u64 = 0x10000;
const HANDLER: u64 = START + 0x400;
const DATA: u64 = START + 0x1000;
/// How often the interrupt becomes pending.
const TIMES: u32 = 1000;

const MSTATUS: u32 = 0x300;
const MIE: u32 = 0x304;
const MTVEC: u32 = 0x305;
const MENVCFG: u32 = 0x30a;
const MEPC: u32 = 0x341;
const MIP: u32 = 0x344;
const STIMECMP: u32 = 0x14d;

const T0: u32 = 5;
const T1: u32 = 6;
const T2: u32 = 7;
const S1: u32 = 9;
const S2: u32 = 18;
const T3: u32 = 28;
const T4: u32 = 29;
const T5: u32 = 30;

fn csrw(number: u32, from: u32) -> u32 {
    number << 20 | from << 15 | 1 << 12 | 0x73
}

/// CSRRWI, CSRRSI, CSRRCI: `how` is 5, 6 or 7.
fn csr_immediate(how: u32, number: u32, bits: u32) -> u32 {
    number << 20 | bits << 15 | how << 12 | 0x73
}

fn csrr(to: u32, number: u32) -> u32 {
    number << 20 | 2 << 12 | to << 7 | 0x73
}

fn addi(to: u32, from: u32, immediate: i32) -> u32 {
    (immediate as u32) << 20 | from << 15 | to << 7 | 0x13
}

fn lui(to: u32, value: u64) -> u32 {
    value as u32 & !0xfff | to << 7 | 0x37
}

fn sd(from: u32, base: u32, offset: u32) -> u32 {
    from << 20 | base << 15 | 3 << 12 | offset << 7 | 0x23
}

/// Enables interrupts `TIMES` times while one is pending that `raise` raises and `acknowledge` ends; `enable` enables that one. Stores how many were
/// taken, and where another address was interrupted than that behind the instruction that enables them, something else than 0.
fn image(enable: &[u32], raise: u32, acknowledge: u32) -> (Vec<u8>, u64) {
    let mut code = vec![
        lui(T0, HANDLER),
        addi(T0, T0, (HANDLER & 0xfff) as i32),
        csrw(MTVEC, T0),
        addi(T4, 0, 1),
        // slli t4, t4, 63
        63 << 20 | T4 << 15 | 1 << 12 | T4 << 7 | 0x13,
        csrw(MENVCFG, T4),
        addi(T5, 0, -1),
        addi(T0, 0, 0),
        addi(T1, 0, 0),
        addi(T3, 0, 0),
        addi(S2, 0, 0),
        addi(T2, 0, TIMES as i32),
    ];
    code.extend(enable);
    let interrupted = START + 4 * (code.len() as u64 + 5);
    code.extend([lui(S1, interrupted), addi(S1, S1, (interrupted & 0xfff) as i32)]);
    let start = code.len() as i32;
    code.extend([raise, addi(T0, T0, 1), csr_immediate(6, MSTATUS, 8), addi(T1, T1, 1), csr_immediate(7, MSTATUS, 8)]);
    let distance = 4 * (start - code.len() as i32);
    // bne t0, t2, start
    let offset = distance as u32;
    let high = (offset >> 12 & 1) << 31 | (offset >> 5 & 0x3f) << 25;
    let low = (offset >> 1 & 0xf) << 8 | (offset >> 11 & 1) << 7;
    code.push(high | T2 << 20 | T0 << 15 | 1 << 12 | low | 0x63);
    code.extend([lui(T4, DATA), sd(T3, T4, 0), sd(S2, T4, 8), sd(T1, T4, 16)]);
    let end = START + 4 * code.len() as u64;
    code.push(addi(0, 0, 0));
    assert!(end < HANDLER);
    code.resize((HANDLER - START) as usize / 4, 0);
    code.extend([
        acknowledge,
        addi(T3, T3, 1),
        csrr(T4, MEPC),
        // sub t4, t4, s1
        0x20 << 25 | S1 << 20 | T4 << 15 | T4 << 7 | 0x33,
        // or s2, s2, t4
        T4 << 20 | S2 << 15 | 6 << 12 | S2 << 7 | 0x33,
        // mret
        0x3020_0073,
    ]);
    let mut image: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.resize((DATA - START) as usize + 0x1000, 0);
    (image, end)
}

fn each_is_taken_at_once(enable: &[u32], raise: u32, acknowledge: u32) {
    let (image, end) = image(enable, raise, acknowledge);
    for tiers in [
        Tiers::InterpreterOnly,
        Tiers::Baseline(1),
        Tiers::Baseline(20),
        Tiers::Immediate(1),
        Tiers::Immediate(20),
        Tiers::Background(20),
    ] {
        let data = machine::run(START, &image, end, tiers).bytes(DATA, 24);
        let [taken, elsewhere, behind] =
            [0, 8, 16].map(|at| u64::from_le_bytes(*data[at..].first_chunk().expect("three words were read")));
        assert_eq!([taken, elsewhere, behind], [TIMES.into(), 0, TIMES.into()], "{tiers:?}");
    }
}

#[test]
fn software_interrupts() {
    each_is_taken_at_once(&[csr_immediate(5, MIE, 2)], csr_immediate(6, MIP, 2), csr_immediate(7, MIP, 2));
}

/// The time here is always 0, and nobody calls the processor.
#[test]
fn timer_interrupts() {
    let enable = [addi(T4, 0, 32), csrw(MIE, T4)];
    each_is_taken_at_once(&enable, csr_immediate(5, STIMECMP, 0), csrw(STIMECMP, T5));
}
