//! A guest on its way: started as a user starts it, watched and typed to through its serial port. Also used by the
//! tests of the whole program.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, String>;

/// What the shell prints when it waits for a command.
pub(crate) const PROMPT: &str = " # ";

/// A guest whose serial port is ours; it is ended when dropped.
pub(crate) struct Guest {
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Guest {
    /// Starts `command`, whose serial port is standard input and output.
    pub(crate) fn start(command: &mut Command) -> Result<Guest> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(|error| format!("{command:?} cannot be started: {error}"))?;
        let mut stdout = child.stdout.take().ok_or("the guest has no output")?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Guest { child, output, seen: String::new() })
    }

    /// Waits for `text`, and forgets everything up to it; gives what came before.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(place) = self.seen.find(text) {
                let before = self.seen[..place].to_owned();
                self.seen.drain(..place + text.len());
                return Ok(before);
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{text:?} did not come within {limit:?}; the end was:\n{}", self.end()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the guest ended before {text:?}; the end was:\n{}", self.end()));
                }
            }
        }
    }

    fn end(&self) -> &str {
        let from = self.seen.len().saturating_sub(2000);
        self.seen.get(from..).unwrap_or(&self.seen)
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().ok_or("the guest has no input")?;
        stdin.write_all(format!("{line}\n").as_bytes()).map_err(|error| format!("the guest takes no input: {error}"))
    }

    /// The memory that the program has now, in MiB; none once it has ended.
    pub(crate) fn memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
    }

    /// Waits for the program to end by itself.
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the program ended with {status}")),
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("the program did not end within {limit:?}"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
