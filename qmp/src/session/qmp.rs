//! A QMP conversation on a connection.

use std::collections::VecDeque;
use std::sync::Arc;

use hw::vm::Vm;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::dialogue::{self, Answer, Dialogue, Request};
use super::output::Gone;
use super::{Hub, Output, greeting};
use crate::commands::Execution;
use crate::error::Error;
use crate::json::{self, Format};

/// How many requests may wait for the one that is carried out. Nothing is read meanwhile from a client that has more.
const QUEUE: usize = 8;

/// How much is read from a client at a time, bytes. It bounds how long a client that floods keeps a thread busy.
const READ: usize = 4096;

/// A command that runs on a thread of its own.
struct Running {
    task: JoinHandle<Result<Value, Error>>,
    id: Option<Value>,
}

/// Where messages for the client go.
struct Messages<'a> {
    output: &'a Output,
    format: Format,
}

impl Messages<'_> {
    async fn send(&self, message: &Value) -> Result<(), Gone> {
        self.output.push(json::write(message, self.format)).await
    }
}

/// Talks to a client until it closes its side, is given up, or `closing` becomes true; then finishes what the client
/// asked before, unless it was given up.
pub(crate) async fn serve(
    vm: Arc<Vm>,
    hub: &Hub,
    reader: impl AsyncRead + Unpin,
    output: &Arc<Output>,
    format: Format,
    closing: watch::Receiver<bool>,
) {
    let dialogue = Dialogue::new(vm);
    hub.add(output, dialogue.negotiation().clone(), format);
    tokio::select! {
        // Who is gone needs no farewell.
        _ = talk(dialogue, reader, Messages { output, format }, closing) => {}
        () = output.wait_gone() => {}
    }
}

async fn talk(
    mut dialogue: Dialogue,
    mut reader: impl AsyncRead + Unpin,
    messages: Messages<'_>,
    mut closing: watch::Receiver<bool>,
) -> Result<(), Gone> {
    messages.send(&greeting()).await?;
    let mut waiting: VecDeque<Request> = VecDeque::new();
    let mut running: Option<Running> = None;
    let mut buffer = [0; READ];
    let mut open = true;
    loop {
        while waiting.len() < QUEUE
            && let Some(request) = dialogue.next_request()
        {
            if !request.overtakes() {
                waiting.push_back(request);
                continue;
            }
            match dialogue.begin(request) {
                (Answer::Message(message), _) => messages.send(&message).await?,
                (Answer::Call(call), id) => messages.send(&dialogue::answer(call.run(), id)).await?,
            }
        }
        if running.is_none()
            && let Some(request) = waiting.pop_front()
        {
            match dialogue.begin(request) {
                (Answer::Message(message), _) => messages.send(&message).await?,
                (Answer::Call(call), id) => match call.execution() {
                    Execution::Immediate => messages.send(&dialogue::answer(call.run(), id)).await?,
                    Execution::Blocking => {
                        running = Some(Running { task: tokio::task::spawn_blocking(|| call.run()), id });
                    }
                },
            }
            // One client's flood must not keep others from this thread.
            tokio::task::yield_now().await;
            continue;
        }
        if !open && running.is_none() {
            return Ok(());
        }
        tokio::select! {
            result = finish(&mut running), if running.is_some() => {
                let id = running.take().and_then(|running| running.id);
                messages.send(&dialogue::answer(result, id)).await?;
            }
            length = reader.read(&mut buffer), if open && waiting.len() < QUEUE => match length {
                Ok(0) | Err(_) => open = false,
                Ok(length) => dialogue.push(buffer.get(..length).unwrap_or_default()),
            },
            () = closed(&mut closing), if open => open = false,
        }
    }
}

/// Waits for a command, if one runs.
async fn finish(running: &mut Option<Running>) -> Result<Value, Error> {
    let Some(running) = running else { return std::future::pending().await };
    (&mut running.task).await.unwrap_or_else(|error| {
        tracing::error!("a monitor command failed: {error}");
        Err(Error::generic("internal error, see the log"))
    })
}

/// Waits for the end of the server.
pub(crate) async fn closed(closing: &mut watch::Receiver<bool>) {
    // Without a sender there is no server.
    let _ = closing.wait_for(|closing| *closing).await;
}
