//! A QMP conversation on a connection.

use std::collections::VecDeque;
use std::sync::Arc;

use hw::vm::Vm;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::dialogue::{Answer, Dialogue, Request};
use super::output::Gone;
use super::{Hub, Output, greeting};
use crate::commands::Execution;
use crate::json::{self, Format};

/// How many requests may wait for the one that is carried out. Nothing is read meanwhile from a client that has more.
const QUEUE: usize = 8;

/// How much is read from a client at a time, bytes. It bounds how long a client that floods keeps a thread busy.
const READ: usize = 4096;

/// Where messages for the client go.
struct Messages<'a> {
    output: &'a Arc<Output>,
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
    tokio::select! {
        // Who is gone needs no farewell.
        _ = talk(dialogue, hub, reader, Messages { output, format }, closing) => {}
        () = output.wait_gone() => {}
    }
}

async fn talk(
    mut dialogue: Dialogue,
    hub: &Hub,
    mut reader: impl AsyncRead + Unpin,
    messages: Messages<'_>,
    mut closing: watch::Receiver<bool>,
) -> Result<(), Gone> {
    messages.send(&greeting()).await?;
    let mut waiting: VecDeque<Request> = VecDeque::new();
    let mut running: Option<JoinHandle<Value>> = None;
    let mut buffer = [0; READ];
    let mut open = true;
    let mut listening = false;
    loop {
        while waiting.len() < QUEUE
            && let Some(request) = dialogue.next_request()
        {
            if !request.overtakes() {
                waiting.push_back(request);
                continue;
            }
            match dialogue.begin(request) {
                Answer::Message(message) => messages.send(&message).await?,
                Answer::Call(call) => messages.send(&call.run()).await?,
            }
        }
        if running.is_none()
            && let Some(request) = waiting.pop_front()
        {
            match dialogue.begin(request) {
                Answer::Message(message) => messages.send(&message).await?,
                Answer::Call(call) => match call.execution() {
                    Execution::Immediate => messages.send(&call.run()).await?,
                    Execution::Blocking => running = Some(tokio::task::spawn_blocking(|| call.run())),
                },
            }
            // Not before the answer to the command that ended the negotiation is on its way.
            if !listening && dialogue.negotiation().is_complete() {
                hub.add(messages.output, messages.format);
                listening = true;
            }
            // One client's flood must not keep others from this thread.
            tokio::task::yield_now().await;
            continue;
        }
        if !open && running.is_none() {
            return Ok(());
        }
        tokio::select! {
            message = finish(&mut running), if running.is_some() => {
                running = None;
                messages.send(&message?).await?;
            }
            length = reader.read(&mut buffer), if open && waiting.len() < QUEUE => match length {
                Ok(0) | Err(_) => open = false,
                Ok(length) => dialogue.push(buffer.get(..length).unwrap_or_default()),
            },
            () = closed(&mut closing), if open => open = false,
        }
    }
}

/// Waits for the answer of a command, if one runs.
async fn finish(running: &mut Option<JoinHandle<Value>>) -> Result<Value, Gone> {
    match running {
        // Only the end of the runtime keeps a command from its answer.
        Some(running) => running.await.map_err(|_| Gone),
        None => std::future::pending().await,
    }
}

/// Waits for the end of the server.
pub(crate) async fn closed(closing: &mut watch::Receiver<bool>) {
    // Without a sender there is no server.
    let _ = closing.wait_for(|closing| *closing).await;
}
