//! What lifted code calls: one function for what takes more than a few operations.

mod integer;
mod mmx;
mod state_image;
mod string;
mod system;
mod vector;
mod vector_memory;
mod x87;
mod xsave;

use crate::guest::{Effects, Helper};
use crate::ir::HelperId;

use super::segment::SegmentName;
use super::state::X86_64;

pub(super) use mmx::{MmxConversion, MmxOperation, MmxSource, mmx_function};
pub(super) use state_image::encode_state_image;
pub(super) use string::{RepeatedString, StringOperation};
pub(super) use system::InstructionEnd;
pub(super) use vector::{Third, VectorOperands};
pub(super) use vector_memory::{Gather, MaskedMove};
pub(super) use x87::{X87Operand, load_bytes, store_bytes};
pub(super) use xsave::encode_xsave;

/// It acts on the world outside or on the processor's state beyond its registers, and may raise.
const ACTS: Effects = Effects::RAISES;

/// As [`ACTS`], with registers as operands.
const ACTS_ON_REGISTERS: Effects = Effects { reads_registers: true, writes_registers: true, ..Effects::RAISES };

/// A function of registers and of nothing else.
const ON_REGISTERS: Effects = Effects { can_raise: false, ..ACTS_ON_REGISTERS };

/// Reads registers, and may raise.
const READS_ALL_REGISTERS: Effects = Effects { writes_registers: false, ..ACTS_ON_REGISTERS };

/// Makes the table of helpers and a constant for the number of each.
macro_rules! helpers {
    ($($id:ident: $name:literal, $arguments:literal, $effects:expr, $function:path;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Position { $($id),* }

        /// Numbers of the helpers.
        pub(super) mod id {
            use super::{HelperId, Position};
            $(
                #[doc = concat!("`", $name, "`.")]
                pub(in super::super) const $id: HelperId = HelperId(Position::$id as u16);
            )*
        }

        pub(super) const HELPERS: &[Helper<X86_64>] = &[
            $(Helper { name: $name, arguments: $arguments, effects: $effects, function: $function },)*
        ];
    };
}

helpers! {
    COMPUTE_FLAGS: "compute_flags", 3, Effects::PURE, integer::compute_flags;
    DIVIDE_SIGNED: "divide_signed", 3, Effects::RAISES, integer::divide_signed;
    DIVIDE_UNSIGNED: "divide_unsigned", 3, Effects::RAISES, integer::divide_unsigned;
    DECIMAL: "decimal", 3, Effects::PURE, integer::decimal;
    ROTATE_THROUGH_CARRY: "rotate_through_carry", 3, Effects::PURE, integer::rotate_through_carry;
    ROTATE_THROUGH_CARRY_FLAGS: "rotate_through_carry_flags", 3, Effects::PURE, integer::rotate_through_carry_flags;
    BIT_FIELD: "bit_field", 2, Effects::PURE, integer::bit_field;
    DEPOSIT_BITS: "deposit_bits", 2, Effects::PURE, integer::deposit_bits;
    EXTRACT_BITS: "extract_bits", 2, Effects::PURE, integer::extract_bits;
    COMPARE_EXCHANGE_16: "compare_exchange_16", 2, ACTS_ON_REGISTERS, integer::compare_exchange_16;
    ALIGNMENT_OF: "alignment_of", 1, Effects::PURE, integer::alignment_of;
    PROBE_WRITE: "probe_write", 3, Effects::RAISES, integer::probe_write;
    RANDOM: "random", 0, ACTS, integer::random;
    REPEATED_STRING: "repeated_string", 3, ACTS_ON_REGISTERS, string::repeated_string;
    CHECK_PORT: "check_port", 2, ACTS, string::check_port;
    READ_PORT: "read_port", 2, ACTS, string::read_port;
    WRITE_PORT: "write_port", 3, ACTS, string::write_port;
    SEGMENT_ADDRESS: "segment_address", 2, ACTS, system::segment_address;
    CODE_ADDRESS: "code_address", 1, ACTS, system::code_address;
    READ_SELECTOR: "read_selector", 1, Effects::PURE, system::read_selector;
    END_SHADOW: "end_shadow", 0, ACTS, system::end_shadow;
    BEGIN_INSTRUCTION: "begin_instruction", 0, Effects::ALL, system::begin_instruction;
    END_INSTRUCTION: "end_instruction", 3, Effects::ALL, system::end_instruction;
    SET_INTERRUPT_FLAG: "set_interrupt_flag", 1, ACTS, system::set_interrupt_flag;
    SET_ACCESS_FLAG: "set_access_flag", 1, ACTS, system::set_access_flag;
    LOAD_SEGMENT: "load_segment", 3, Effects::ALL, system::load_segment;
    WRITE_SEGMENT_BASE: "write_segment_base", 2, ACTS_ON_REGISTERS, system::write_segment_base;
    READ_SYSTEM_FLAGS: "read_system_flags", 0, Effects::PURE, system::read_system_flags;
    WRITE_FLAGS: "write_flags", 2, Effects::ALL, system::write_flags;
    SOFTWARE_INTERRUPT: "software_interrupt", 2, Effects::ALL, system::software_interrupt;
    PRIVILEGED_SOFTWARE_INTERRUPT: "privileged_software_interrupt", 2, Effects::ALL, system::privileged_software_interrupt;
    INTERRUPT_ON_OVERFLOW: "interrupt_on_overflow", 2, Effects::ALL, system::interrupt_on_overflow;
    INTERRUPT_RETURN: "interrupt_return", 2, Effects::ALL, system::interrupt_return;
    RESUME: "resume", 0, Effects::ALL, system::resume;
    FAR_JUMP: "far_jump", 3, Effects::ALL, system::far_jump;
    FAR_CALL: "far_call", 3, Effects::ALL, system::far_call;
    FAR_RETURN: "far_return", 2, Effects::ALL, system::far_return;
    SYSCALL: "syscall", 1, ACTS_ON_REGISTERS, system::syscall;
    SYSRET: "sysret", 1, ACTS_ON_REGISTERS, system::sysret;
    SYSENTER: "sysenter", 0, Effects::ALL, system::sysenter;
    SYSEXIT: "sysexit", 1, Effects::ALL, system::sysexit;
    HALT: "halt", 0, Effects::ALL, system::halt;
    PAUSE_PROCESSOR: "pause_processor", 0, ACTS, system::pause_processor;
    PAUSE: "pause", 0, ACTS, system::pause;
    READ_MSR: "read_msr", 1, READS_ALL_REGISTERS, system::read_msr;
    WRITE_MSR: "write_msr", 3, ACTS_ON_REGISTERS, system::write_msr;
    READ_TIME_STAMP: "read_time_stamp", 0, ACTS, system::read_time_stamp;
    READ_COUNTER: "read_counter", 1, Effects::RAISES, system::read_counter;
    CHECK_CODE_LIMIT: "check_code_limit", 2, Effects::RAISES, system::check_code_limit;
    READ_PROCESSOR_NUMBER: "read_processor_number", 0, Effects::PURE, system::read_processor_number;
    CPUID: "cpuid", 0, ACTS_ON_REGISTERS, system::cpuid;
    READ_CONTROL: "read_control", 1, Effects::PURE, system::read_control;
    WRITE_CONTROL: "write_control", 2, Effects::ALL, system::write_control;
    LOAD_MACHINE_STATUS: "load_machine_status", 1, Effects::ALL, system::load_machine_status;
    CLEAR_TASK_SWITCHED: "clear_task_switched", 0, Effects::ALL, system::clear_task_switched;
    READ_DEBUG: "read_debug", 1, Effects::ALL, system::read_debug;
    WRITE_DEBUG: "write_debug", 2, Effects::ALL, system::write_debug;
    READ_EXTENDED_CONTROL: "read_extended_control", 1, READS_ALL_REGISTERS, system::read_extended_control;
    WRITE_EXTENDED_CONTROL: "write_extended_control", 3, Effects::ALL, system::write_extended_control;
    READ_TABLE_BASE: "read_table_base", 1, Effects::PURE, system::read_table_base;
    READ_TABLE_LIMIT: "read_table_limit", 1, Effects::PURE, system::read_table_limit;
    LOAD_TABLE: "load_table", 3, Effects::ALL, system::load_table;
    LOAD_LDT: "load_ldt", 1, Effects::ALL, system::load_ldt;
    LOAD_TASK: "load_task", 1, Effects::ALL, system::load_task;
    LOOK_AT_SEGMENT: "look_at_segment", 2, Effects::RAISES, system::look_at_segment;
    ADJUST_PRIVILEGE: "adjust_privilege", 3, Effects::RAISES, system::adjust_privilege;
    CHECK_USER_MODE_PREVENTION: "check_user_mode_prevention", 0, Effects::RAISES, system::check_user_mode_prevention;
    INVALIDATE_PAGE: "invalidate_page", 1, ACTS, system::invalidate_page;
    INVALIDATE_CONTEXT: "invalidate_context", 3, Effects::ALL, system::invalidate_context;
    HYPERCALL: "hypercall", 0, ACTS, system::hypercall;
    LANEWISE: "lanewise", 3, Effects::PURE, vector::lanewise;
    VECTOR_INTEGER: "vector_integer", 2, ON_REGISTERS, vector::integer;
    VECTOR_FLOAT: "vector_float", 2, ACTS_ON_REGISTERS, vector::floating;
    COMPARE_FLOATS: "compare_floats", 3, ACTS, vector::compare_floats;
    INTEGER_TO_FLOAT: "integer_to_float", 2, ACTS, vector::integer_to_float;
    FLOAT_TO_INTEGER: "float_to_integer", 2, ACTS, vector::float_to_integer;
    MERGE_BYTES: "merge_bytes", 3, Effects::PURE, vector::merge_bytes;
    CHECKSUM: "checksum", 3, Effects::PURE, vector::checksum;
    INSERT_SINGLE: "insert_single", 3, ON_REGISTERS, vector::insert_single;
    COMPARE_STRINGS: "compare_strings", 2, ON_REGISTERS, vector::compare_strings;
    PERMUTE_DOUBLEWORDS: "permute_doublewords", 1, ON_REGISTERS, vector::permute_doublewords;
    MULTIPLY_ADD: "multiply_add", 2, ACTS_ON_REGISTERS, vector::multiply_add;
    MASKED_LOAD: "masked_load", 2, ACTS_ON_REGISTERS, vector_memory::masked_load;
    MASKED_STORE: "masked_store", 2, READS_ALL_REGISTERS, vector_memory::masked_store;
    GATHER: "gather", 2, ACTS_ON_REGISTERS, vector_memory::gather;
    SWAP_GS: "swap_gs", 0, ON_REGISTERS, system::swap_gs;
    EMPTY_MMX: "empty_mmx", 0, ACTS, x87::empty_mmx;
    X87_WAIT: "x87_wait", 0, ACTS, x87::wait;
    X87_ON_REGISTERS: "x87_on_registers", 3, ACTS, x87::on_registers;
    X87_LOAD: "x87_load", 3, ACTS, x87::load;
    X87_STORE: "x87_store", 3, ACTS, x87::store;
    X87_LOAD_IMAGE: "x87_load_image", 2, ACTS, x87::load_image;
    X87_STORE_IMAGE: "x87_store_image", 2, ACTS, x87::store_image;
    MMX_OPERATE: "mmx_operate", 3, ACTS, mmx::operate;
    MMX_READ: "mmx_read", 1, ACTS, mmx::read;
    MMX_EXTRACT: "mmx_extract", 2, ACTS, mmx::extract;
    MMX_SIGNS: "mmx_signs", 1, ACTS, mmx::signs;
    MMX_ENTER: "mmx_enter", 0, ACTS, mmx::enter;
    MMX_EMPTY: "mmx_empty", 0, ACTS, mmx::empty;
    MMX_STORE_MASKED: "mmx_store_masked", 3, ACTS, mmx::store_masked;
    MMX_CONVERT: "mmx_convert", 3, ACTS_ON_REGISTERS, mmx::convert;
    FXSAVE: "fxsave", 2, Effects::ALL, state_image::fxsave;
    FXRSTOR: "fxrstor", 2, Effects::ALL, state_image::fxrstor;
    XSAVE: "xsave", 3, Effects::ALL, xsave::xsave;
    XRSTOR: "xrstor", 3, Effects::ALL, xsave::xrstor;
    LOAD_MXCSR: "load_mxcsr", 1, Effects::ALL, state_image::load_mxcsr;
    READ_MXCSR: "read_mxcsr", 0, Effects::ALL, state_image::read_mxcsr;
}

/// The second argument of `segment_address`.
pub(super) fn encode_access(segment: SegmentName, bytes: u64, write: bool) -> u64 {
    segment as u64 | bytes << 8 | u64::from(write) << 32
}
