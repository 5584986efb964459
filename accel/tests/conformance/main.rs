//! The conformance suite of the accelerator trait: the same cases for every backend and guest architecture.
//!
//! A case is a function of a [`Subject`](subject::Subject), in the file of its concept. Guest programs are built by
//! [`Program`](program::Program) from operations that every architecture has; where a case is about one architecture,
//! it uses that one's instructions. A new backend needs a subject and a line at the end of this file.

mod bus;
mod io;
mod machine;
mod program;
mod riscv;
mod subject;
mod x86;

macro_rules! suite {
    ($suite:ident, $subject:expr, [$($more:ident :: $case:ident),*]) => {
        suite!(@ $suite, $subject, [
            io::memory_mapped_io_of_each_width,
            io::read_only_memory,
            io::unmapped_access
            $(, $more::$case)*
        ]);
    };
    (@ $suite:ident, $subject:expr, [$($concept:ident :: $case:ident),*]) => {
        mod $suite {
            $(
                #[test]
                fn $case() {
                    crate::subject::run(concat!(stringify!($suite), "::", stringify!($case)), $subject, crate::$concept::$case);
                }
            )*
        }
    };
}

suite!(kvm_x86_64, crate::subject::KVM_X86_64, []);
