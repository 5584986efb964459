//! A small QMP client.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A connection in command mode.
pub(crate) struct Client {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// Events that came and were not asked for yet.
    events: Vec<Value>,
}

impl Client {
    /// Connects as soon as the socket is there, and negotiates.
    pub(crate) fn connect(path: &Path) -> Client {
        let deadline = Instant::now() + super::LIMIT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => panic!("{}: {error}", path.display()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(super::LIMIT)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        let mut client = Client { reader, writer: stream, events: Vec::new() };
        let greeting = client.read();
        assert!(greeting["QMP"]["version"]["qemu"]["major"].as_i64() >= Some(10), "{greeting}");
        assert_eq!(client.execute("qmp_capabilities", json!({})), json!({}));
        client
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("the server goes on");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Sends a command and gives the whole answer. Events that came before it are kept.
    pub(crate) fn send(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments, "id": command});
        self.writer.write_all(format!("{request}\n").as_bytes()).unwrap();
        loop {
            let message = self.read();
            if message.get("event").is_some() {
                self.events.push(message);
            } else {
                assert_eq!(message["id"], command, "{message}");
                return message;
            }
        }
    }

    /// Sends a command that must succeed.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let mut answer = self.send(command, arguments);
        assert!(answer.get("return").is_some(), "{command}: {answer}");
        answer["return"].take()
    }

    /// The names of the events that came so far; they are forgotten.
    pub(crate) fn events_so_far(&mut self) -> Vec<String> {
        self.events.drain(..).filter_map(|event| event["event"].as_str().map(str::to_owned)).collect()
    }

    /// Waits for an event.
    pub(crate) fn wait_for(&mut self, name: &str) -> Value {
        loop {
            if let Some(place) = self.events.iter().position(|event| event["event"] == name) {
                return self.events.remove(place);
            }
            let message = self.read();
            assert!(message.get("event").is_some(), "{message}");
            self.events.push(message);
        }
    }
}
