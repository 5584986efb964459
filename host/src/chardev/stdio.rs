//! `stdio`: the terminal or whatever the program's standard input and output are.
//!
//! Raw mode is not set here: the terminal belongs to the program, which must restore it on every exit path.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use super::queue::{ByteQueue, Input};
use super::{CharBackend, CharFrontend, Error};

/// Standard input and output as a character device.
pub struct StdioBackend {
    shared: Arc<Shared>,
}

struct Shared {
    output: ByteQueue,
    input: Input,
}

impl StdioBackend {
    /// Takes standard input and output over; there should be one such backend in a process.
    pub fn open() -> Result<StdioBackend, Error> {
        let open = |source| Error::Open { what: "stdio".into(), source };
        let shared = Arc::new(Shared { output: ByteQueue::default(), input: Input::default() });
        let writer = shared.clone();
        std::thread::Builder::new()
            .name("stdio output".into())
            .spawn(move || {
                let mut stdout = std::io::stdout();
                while let Some((bytes, refused)) = writer.output.take() {
                    // A closed terminal is no reason to stop the guest.
                    let _ = stdout.write_all(&bytes).and_then(|()| stdout.flush());
                    if refused {
                        writer.input.writable();
                    }
                }
            })
            .map_err(open)?;
        let reader = shared.clone();
        std::thread::Builder::new()
            .name("stdio input".into())
            .spawn(move || {
                let mut buffer = [0; 1024];
                let mut stdin = std::io::stdin().lock();
                while let Some(room) = reader.input.wait_receivable() {
                    let limit = room.min(buffer.len());
                    match stdin.read(&mut buffer[..limit]) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => {
                            if !reader.input.deliver(&buffer[..count]) {
                                break;
                            }
                        }
                    }
                }
            })
            .map_err(open)?;
        Ok(StdioBackend { shared })
    }
}

impl Drop for StdioBackend {
    fn drop(&mut self) {
        self.shared.output.close();
        self.shared.input.end();
    }
}

impl CharBackend for StdioBackend {
    fn description(&self) -> String {
        "stdio".into()
    }
    fn write(&self, data: &[u8]) -> usize {
        self.shared.output.push(data)
    }
    fn connect(&self, frontend: Arc<dyn CharFrontend>) {
        self.shared.input.connect(frontend);
    }
    fn accept_input(&self) {
        self.shared.input.accept();
    }
    fn flush(&self, limit: Duration) {
        self.shared.output.flush(limit);
    }
}
