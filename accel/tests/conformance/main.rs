//! The conformance suite of the accelerator trait: the same cases for every backend and guest architecture.
//!
//! A case is a function of a [`Subject`](subject::Subject), in the file of its concept. Guest programs are built by
//! [`Program`](program::Program) from operations that every architecture has; where a case is about one architecture,
//! it uses that one's instructions. A new backend needs a subject and a line at the end of this file.

mod bus;
mod debugging;
mod dirty_log;
mod events;
mod halt;
mod interrupts;
mod io;
mod kick;
mod kvm_quirks;
mod machine;
mod management;
mod ports;
mod program;
mod riscv;
mod self_modifying;
mod several;
mod shutdown;
mod slots;
mod states;
mod subject;
mod x86;

macro_rules! suite {
    ($suite:ident, $subject:expr, [$($more:ident :: $case:ident),* $(,)?]) => {
        suite!(@ $suite, $subject, [
            debugging::a_run_that_begins_at_a_breakpoint_passes_it,
            debugging::breakpoints,
            debugging::debug_requests_have_a_limit,
            debugging::read_watchpoints,
            debugging::single_steps,
            debugging::write_watchpoints,
            dirty_log::written_pages_are_logged_once,
            events::io_events,
            halt::a_kicked_processor_stays_halted,
            halt::an_interrupt_wakes_a_halted_processor,
            interrupts::a_lowered_interrupt_is_gone,
            interrupts::inputs_that_do_not_exist,
            interrupts::interrupt_of_a_running_processor,
            interrupts::interrupts_through_the_backends_controller,
            interrupts::interrupts_wait_while_they_are_off,
            interrupts::non_maskable_interrupts,
            io::memory_mapped_io_of_each_width,
            io::read_only_memory,
            io::unmapped_access,
            kick::kick_before_the_run,
            kick::kick_of_a_running_processor,
            kick::no_kick_is_lost,
            self_modifying::a_program_changes_its_code,
            several::atomic_increments_add_up,
            slots::hot_map_and_unmap,
            slots::impossible_slots_are_refused,
            slots::mapping_while_a_processor_runs,
            slots::parts_are_dropped_in_any_order,
            states::a_saved_program_continues_elsewhere,
            states::a_written_state_is_read_back,
            states::impossible_states_are_refused,
            states::the_state_of_controllers_is_read_back,
            states::translation_of_addresses,
            $($more::$case,)*
        ]);
    };
    (@ $suite:ident, $subject:expr, [$($concept:ident :: $case:ident,)*]) => {
        mod $suite {
            $(
                #[test]
                fn $case() {
                    let name = concat!(stringify!($suite), "::", stringify!($case));
                    crate::subject::run(name, $subject, crate::$concept::$case);
                }
            )*
        }
    };
}

macro_rules! x86_64_suites {
    ($($suite:ident: $subject:expr, [$($more:ident :: $case:ident),*];)*) => {
        $(suite!(
            $suite,
            $subject,
            [
                debugging::a_guest_steps_itself,
                debugging::watchpoints_in_user_mode,
                interrupts::a_requested_nmi_moves_with_the_state,
                interrupts::interrupts_come_behind_the_instruction_after_sti,
                io::access_across_the_end_of_memory,
                io::unusual_instructions_reach_devices,
                management::a_handler_has_memory_of_its_own,
                ports::port_io_of_each_width,
                ports::string_port_io,
                ports::unmapped_port,
                several::a_second_processor_starts_up,
                shutdown::triple_fault,
                states::a_new_processor_starts_at_the_reset_vector,
                $($more::$case,)*
            ]
        );)*
    };
}

x86_64_suites! {
    kvm_x86_64: crate::subject::KVM_X86_64, [shutdown::an_instruction_that_cannot_be_emulated_is_named];
    jit_x86_64: crate::subject::JIT_X86_64, [];
    compiled_x86_64: crate::subject::COMPILED_X86_64, [];
    baseline_x86_64: crate::subject::BASELINE_X86_64, [];
    interpreted_x86_64: crate::subject::INTERPRETED_X86_64, [];
}

suite!(jit_riscv64, crate::subject::JIT_RISCV64, []);
suite!(compiled_riscv64, crate::subject::COMPILED_RISCV64, []);
suite!(baseline_riscv64, crate::subject::BASELINE_RISCV64, []);
suite!(interpreted_riscv64, crate::subject::INTERPRETED_RISCV64, []);
