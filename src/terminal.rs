//! The terminal: raw while the guest uses it, and as it was on every way out.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;

use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

/// The terminal's settings before they were changed.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

fn standard_input() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// Restores the terminal when it goes.
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Passes every key to the guest at once. With `signals`, Ctrl-C and its like still act on Brolga. Does nothing where
    /// standard input is no terminal.
    pub(crate) fn enter(signals: bool) -> RawTerminal {
        let input = standard_input();
        if isatty(input)
            && let Ok(before) = tcgetattr(input)
        {
            let mut raw = before.clone();
            raw.make_raw();
            // Output is left as it was: our own messages have bare line feeds.
            raw.output_modes = before.output_modes;
            if signals {
                raw.local_modes |= LocalModes::ISIG;
            }
            if tcsetattr(input, OptionalActions::Now, &raw).is_ok() {
                *BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(before);
            }
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |information| {
                restore();
                hook(information);
            }));
        }
        RawTerminal(())
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        // There is nobody left to tell.
        let _ = tcsetattr(standard_input(), OptionalActions::Now, &before);
    }
}
