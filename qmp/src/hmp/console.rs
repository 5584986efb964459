//! The monitor with a prompt, on a connection.

use std::sync::Arc;

use hw::vm::Vm;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

use super::Monitor;
use crate::PACKAGE;
use crate::session::{Output, closed};

const PROMPT: &str = "(qemu) ";

/// Longest line that a person can type, bytes; more is left out.
const LINE: usize = 4095;

/// Serves a person until the connection ends or `closing` becomes true.
pub(crate) async fn serve(
    vm: Arc<Vm>,
    mut reader: impl AsyncRead + Unpin,
    output: &Arc<Output>,
    echo: bool,
    mut closing: watch::Receiver<bool>,
) {
    let mut monitor = Monitor::new(vm);
    let mut editor = Editor::default();
    let greeting = format!("{PACKAGE} monitor - type 'help' for more information\r\n{PROMPT}");
    if output.push(greeting.into_bytes()).await.is_err() {
        return;
    }
    let mut buffer = [0; 256];
    loop {
        let length = tokio::select! {
            length = reader.read(&mut buffer) => length.unwrap_or(0),
            () = closed(&mut closing) => return,
            () = output.wait_gone() => return,
        };
        if length == 0 {
            return;
        }
        for &byte in buffer.get(..length).unwrap_or_default() {
            let (shown, line) = editor.key(byte);
            if echo && output.push(shown).await.is_err() {
                return;
            }
            let Some(line) = line else { continue };
            let ran = tokio::task::spawn_blocking(move || {
                let text = monitor.execute(&line);
                (monitor, text)
            });
            // A command that panicked took the session with it.
            let Ok((same, text)) = ran.await else { return };
            monitor = same;
            let text = text.replace('\n', "\r\n") + PROMPT;
            if output.push(text.into_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// Takes the last character off a terminal.
const RUB_OUT: &[u8] = b"\x08 \x08";

/// Collects keys to lines.
#[derive(Default)]
struct Editor {
    line: Vec<u8>,
    after_return: bool,
}

impl Editor {
    /// Takes a key. Returns what the terminal should show for it, and the line that it completes.
    fn key(&mut self, key: u8) -> (Vec<u8>, Option<String>) {
        let after_return = std::mem::replace(&mut self.after_return, key == b'\r');
        match key {
            // The second half of CR LF.
            b'\n' if after_return => (Vec::new(), None),
            b'\r' | b'\n' => {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                (b"\r\n".into(), Some(line))
            }
            // Backspace and delete.
            0x08 | 0x7f => match self.line.pop() {
                Some(_) => (RUB_OUT.into(), None),
                None => (Vec::new(), None),
            },
            // Ctrl-U.
            0x15 => {
                let shown = RUB_OUT.repeat(self.line.len());
                self.line.clear();
                (shown, None)
            }
            b' '..=b'~' | 0x80.. if self.line.len() < LINE => {
                self.line.push(key);
                (vec![key], None)
            }
            _ => (Vec::new(), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_any_kind_of_return_and_can_be_corrected() {
        let mut editor = Editor::default();
        let lines: Vec<String> = b"xinfo\x7f\x08\x08\x08\x08infp\x08o\r\nstop\n\r\x1bzz\x15\r"
            .iter()
            .filter_map(|&key| editor.key(key).1)
            .collect();
        assert_eq!(lines, ["info", "stop", "", ""]);
        for _ in 0..2 * LINE {
            editor.key(b'x');
        }
        assert_eq!(editor.key(b'\r').1.map(|line| line.len()), Some(LINE));
        assert_eq!(editor.key(b'a').0, b"a");
        assert_eq!(editor.key(0x7f).0, RUB_OUT);
        assert_eq!(editor.key(0x7f).0, b"");
    }
}
