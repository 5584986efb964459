//! `null`: output vanishes, no input ever comes.

use std::sync::Arc;
use std::time::Duration;

use super::{CharBackend, CharFrontend};

/// A character device without a host end.
#[derive(Default)]
pub struct NullBackend;

impl CharBackend for NullBackend {
    fn description(&self) -> String {
        "null".into()
    }
    fn write(&self, data: &[u8]) -> usize {
        data.len()
    }
    fn connect(&self, _frontend: Arc<dyn CharFrontend>) {}
    fn accept_input(&self) {}
    fn flush(&self, _limit: Duration) {}
}
