//! The x87 floating-point unit.
