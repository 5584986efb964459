//! JSON as QMP speaks it.
//!
//! Input is a stream of values that are framed by themselves and not by lines; see [`Reader`] for what is accepted
//! beyond RFC 8259 and for how reading goes on after an error. Output is ASCII; see [`write()`].

mod lexer;
mod reader;
mod writer;

pub use reader::{InputError, MAXIMUM_DEPTH, MAXIMUM_TEXT, MAXIMUM_TOKENS, Reader};
pub use writer::{Format, write};
