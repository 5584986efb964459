//! SSE.

use super::{Lifter, Raises, Result};

impl Lifter {
    /// An instruction of SSE, MMX or the x87.
    pub(super) fn sse(&mut self) -> Result {
        Err(Raises::INVALID_OPCODE)
    }
}
