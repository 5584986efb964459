//! The devices of both machines, register by register, on a machine without a processor.

#[path = "../support/mod.rs"]
mod support;

mod protocol;
