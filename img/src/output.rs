//! What commands print.

use std::io::Write;
use std::sync::Arc;

use block::operations::{Progress, TellProgress};
use clap::ArgMatches;
use serde_json::ser::PrettyFormatter;
use serde_json::{Serializer, Value};
use std::sync::Mutex;

use crate::failure::Failure;

/// Prints a line.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// Prints a line unless the user wants none.
pub(crate) fn say_unless_quiet(arguments: &ArgMatches, text: &str) -> Result<(), Failure> {
    if arguments.get_flag("quiet") { Ok(()) } else { say(text) }
}

/// Prints a value over several lines.
pub(crate) fn write_json(output: &mut impl Write, value: &Value) -> std::io::Result<()> {
    let mut serializer = Serializer::with_formatter(&mut *output, PrettyFormatter::with_indent(b"    "));
    serde::Serialize::serialize(value, &mut serializer)?;
    writeln!(output)
}

/// Shows how far an operation is, in percent, in a line that is written over and over.
#[derive(Clone)]
pub(crate) struct ProgressLine {
    /// Percent that are shown; `None` if none are.
    shown: Option<Arc<Mutex<f64>>>,
}

impl ProgressLine {
    /// The line that the options of a command ask for.
    pub(crate) fn asked_for(arguments: &ArgMatches) -> ProgressLine {
        let is_shown = arguments.get_flag("progress") && !arguments.get_flag("quiet");
        ProgressLine { shown: is_shown.then(|| Arc::new(Mutex::new(f64::NEG_INFINITY))) }
    }

    /// What is told by the operation.
    pub(crate) fn teller(&self) -> TellProgress {
        let line = self.clone();
        Arc::new(move |progress: Progress| line.show(progress.done as f64 * 100.0 / progress.total.max(1) as f64))
    }

    /// Shows a percentage if it is so much more than the last that people see it.
    fn show(&self, percent: f64) {
        let Some(shown) = &self.shown else { return };
        let Ok(mut shown) = shown.lock() else { return };
        if percent >= *shown + 1.0 && percent < 100.0 {
            *shown = percent;
            write_percent(percent);
        }
    }

    /// Everything is done.
    pub(crate) fn complete(&self) {
        if self.shown.is_some() {
            write_percent(100.0);
        }
    }

    /// Goes to the next line.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        if self.shown.is_some() { say("") } else { Ok(()) }
    }
}

fn write_percent(percent: f64) {
    // Whether anybody sees it does not matter to the operation.
    let mut output = std::io::stdout().lock();
    let _ = write!(output, "    ({percent:.2}/100%)\r").and_then(|()| output.flush());
}
