//! Servers and sessions on real sockets.

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hw::machine::Config;
use hw::vm::Vm;
use qmp::json::Format;
use qmp::{Endpoint, Protocol, Server};
use serde_json::{Value, json};
use support::{On, machine, under_each_accelerator};

const QMP: Protocol = Protocol::Qmp(Format::Line);

/// A machine with a server on a unix socket.
struct Fixture {
    vm: Arc<Vm>,
    server: Server,
    path: PathBuf,
    _folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn fixture(on: On, change: impl FnOnce(&mut Config)) -> Fixture {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let vm = machine(on, change);
    let server = Server::new(vm.clone(), runtime.handle().clone());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let endpoint = Endpoint::Unix { path: path.clone(), role: qmp::Role::Server { wait: false } };
    server.serve(&endpoint, QMP).unwrap();
    Fixture { vm, server, path, _folder: folder, _runtime: runtime }
}

struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects and takes the greeting.
    fn greeted(path: &PathBuf) -> Client {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Client { reader: BufReader::new(stream.try_clone().unwrap()), stream };
        assert!(client.receive()["QMP"].is_object());
        client
    }

    fn new(path: &PathBuf) -> Client {
        let mut client = Client::greeted(path);
        assert_eq!(client.ask("qmp_capabilities"), json!({"return": {}}));
        client
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "{line:?}");
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, command: &str) -> Value {
        self.send(&format!("{{'execute':'{command}'}}"));
        self.receive()
    }

    /// Name and data of the next message, which is an event.
    fn event(&mut self) -> (String, Value) {
        let mut message = self.receive();
        assert!(message["timestamp"]["seconds"].as_i64() > Some(1_700_000_000), "{message}");
        (message["event"].as_str().unwrap_or_else(|| panic!("no event: {message}")).to_owned(), message["data"].take())
    }

    fn at_end(&mut self) -> bool {
        match self.reader.read(&mut [0]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn nothing() -> Value {
    json!({"return": {}})
}

fn an_event_comes_before_the_answer_that_caused_it_and_to_every_client(on: On) {
    let fixture = fixture(on, |_| {});
    let [mut first, mut second] = [Client::new(&fixture.path), Client::new(&fixture.path)];
    let mut negotiating = Client::greeted(&fixture.path);
    let host = |reason: &str| json!({"guest": false, "reason": reason});
    for (command, events) in [
        ("cont", vec![("RESUME", Value::Null)]),
        ("cont", vec![]),
        ("stop", vec![("STOP", Value::Null)]),
        ("stop", vec![]),
        ("system_reset", vec![("RESET", host("host-qmp-system-reset"))]),
        ("system_powerdown", vec![("POWERDOWN", Value::Null)]),
        ("quit", vec![("SHUTDOWN", host("host-qmp-quit"))]),
    ] {
        first.send(&format!("{{'execute':'{command}','id':'{command}'}}"));
        for (name, data) in events {
            let expected = (name.to_owned(), data);
            assert_eq!(first.event(), expected, "{command}");
            assert_eq!(second.event(), expected, "{command}");
        }
        assert_eq!(first.receive(), json!({"return": {}, "id": command}));
    }
    assert_eq!(fixture.vm.wait_for_exit_at_most(Duration::from_secs(20)), Some(0));
    // Who has not negotiated saw none of it.
    assert_eq!(negotiating.ask("qmp_capabilities"), nothing());
    fixture.server.close();
    assert!(first.at_end() && second.at_end() && negotiating.at_end());
    assert!(!fixture.path.exists());
}

fn answers_of_a_closing_server_arrive(on: On) {
    let fixture = fixture(on, |_| {});
    let mut client = Client::new(&fixture.path);
    client.send(&"{'execute':'query-cpus'}".repeat(50));
    client.send("{'execute':'quit'}");
    fixture.vm.wait_for_exit();
    fixture.server.close();
    for _ in 0..50 {
        assert_eq!(client.receive()["return"].as_array().map(Vec::len), Some(2));
    }
    assert_eq!(client.event().0, "SHUTDOWN");
    assert_eq!(client.receive(), nothing());
    assert!(client.at_end());
}

fn requests_behind_a_closed_side_are_answered(on: On) {
    let fixture = fixture(on, |_| {});
    let mut client = Client::new(&fixture.path);
    client.send(&"{'execute':'query-cpus'} ".repeat(20));
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..20 {
        assert!(client.receive()["return"].is_array());
    }
    assert!(client.at_end());
}

fn a_hundred_clients_are_served_at_once(on: On) {
    let fixture = fixture(on, |_| {});
    let mut clients: Vec<Client> = (0..100).map(|_| Client::new(&fixture.path)).collect();
    for client in &mut clients {
        client.send("{'execute':'query-status'}");
    }
    for client in &mut clients {
        assert_eq!(client.receive()["return"]["status"], "prelaunch");
    }
    assert_eq!(clients[0].ask("cont")["event"], "RESUME");
    for client in &mut clients[1..] {
        assert_eq!(client.event().0, "RESUME");
    }
}

fn a_client_that_does_not_read_is_dropped_and_harms_nobody(on: On) {
    let fixture = fixture(on, |_| {});
    let mut deaf = Client::new(&fixture.path);
    let mut client = Client::new(&fixture.path);
    let filler = "x".repeat(1 << 20);
    deaf.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // Its answers fill its queue; then it is not read from any more.
    let request = format!("{{'execute':'query-status','id':'{filler}'}}");
    while deaf.stream.write_all(request.as_bytes()).is_ok() {}
    // Others are served; the events find no room, and the deaf client is dropped.
    let begin = Instant::now();
    for command in ["cont", "stop"] {
        client.send(&format!("{{'execute':'{command}'}}"));
        client.event();
        assert_eq!(client.receive(), nothing());
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    deaf.stream.set_write_timeout(None).unwrap();
    assert!(deaf.stream.write_all(request.as_bytes()).is_err());
}

fn a_flood_does_not_delay_others(on: On) {
    let fixture = fixture(on, |_| {});
    let mut client = Client::new(&fixture.path);
    let mut flood = Client::new(&fixture.path);
    let mut sink = flood.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let request = "{'execute':'query-commands'} [ ] foo ".repeat(100);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(1) {
            flood.send(&request);
        }
        flood.stream.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let reader = std::thread::spawn(move || while sink.read(&mut [0; 65536]).unwrap_or(0) > 0 {});
    let mut slowest = Duration::ZERO;
    while !sender.is_finished() {
        let begin = Instant::now();
        assert_eq!(client.ask("query-status")["return"]["status"], "prelaunch");
        slowest = slowest.max(begin.elapsed());
    }
    sender.join().unwrap();
    reader.join().unwrap();
    eprintln!("slowest answer beside a flood: {slowest:?}");
    // A generous bound: the machine that runs the tests is busy with others.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

fn a_client_that_breaks_off_in_the_middle_leaves_nothing_behind(on: On) {
    let fixture = fixture(on, |_| {});
    for text in ["{'execute':", "{'execute':'query-cpus'}", "[[[[", "'"] {
        let mut client = Client::new(&fixture.path);
        client.send(text);
    }
    assert_eq!(Client::new(&fixture.path).ask("query-kvm")["return"]["enabled"], on == On::KvmX86_64);
}

fn a_long_message_is_taken(on: On) {
    let fixture = fixture(on, |_| {});
    let mut client = Client::new(&fixture.path);
    let id = "\\u00e9".repeat(2 << 20);
    let mut stream = client.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        stream.write_all(format!("{{'execute':'query-status','id':'{id}'}}").as_bytes()).unwrap();
    });
    let answer = client.receive();
    sender.join().unwrap();
    assert_eq!(answer["id"].as_str().map(|id| id.chars().count()), Some(2 << 20));
}

fn out_of_band_errors_overtake(on: On) {
    let fixture = fixture(on, |_| {});
    let mut client = Client::greeted(&fixture.path);
    client.send("{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}");
    assert_eq!(client.receive(), nothing());
    client.send("{'execute':'query-cpus','id':1}{'exec-oob':'query-status','id':2}");
    let answers = [client.receive(), client.receive()];
    let refused = answers.iter().find(|answer| answer["id"] == 2).unwrap();
    assert_eq!(refused["error"]["desc"], "The command query-status does not support OOB");
    assert!(answers.iter().any(|answer| answer["id"] == 1 && answer["return"].is_array()));
}

fn a_socket_belongs_to_its_user_and_replaces_a_stale_one(on: On) {
    let fixture = fixture(on, |_| {});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stale");
    drop(UnixListener::bind(&path).unwrap());
    let endpoint: Endpoint = format!("unix:{},server,nowait", path.display()).parse().unwrap();
    fixture.server.serve(&endpoint, QMP).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        Client::new(&path).ask("query-target")["return"]["arch"],
        if on == On::JitRiscv64 { "riscv64" } else { "x86_64" }
    );
    // Anything but a socket is not replaced.
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let endpoint: Endpoint = format!("unix:{},server,nowait", file.display()).parse().unwrap();
    let error = fixture.server.serve(&endpoint, QMP).unwrap_err().to_string();
    assert!(error.contains("cannot listen on unix:"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

fn a_server_that_waits_returns_with_its_first_client(on: On) {
    let fixture = fixture(on, |_| {});
    let path = fixture.path.with_extension("wait");
    let endpoint: Endpoint = format!("unix:{},server", path.display()).parse().unwrap();
    let server = fixture.server.clone();
    let waiting = std::thread::spawn(move || server.serve(&endpoint, QMP));
    while !path.exists() {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished());
    // The socket file is there a moment before it listens.
    let begin = Instant::now();
    let client = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(10), "{error}"),
        }
    };
    waiting.join().unwrap().unwrap();
    drop(client);
}

fn a_monitor_can_connect_to_a_listener(on: On) {
    let fixture = fixture(on, |_| {});
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: Endpoint = format!("tcp:127.0.0.1:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    fixture.server.serve(&endpoint, Protocol::Qmp(Format::Pretty)).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "{\r\n");
    line.clear();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "    \"QMP\": {\r\n");
}

fn the_human_monitor_has_a_prompt(on: On) {
    let fixture = fixture(on, |config| config.name = Some("vm1".into()));
    let path = fixture.path.with_extension("monitor");
    let endpoint: Endpoint = format!("unix:{},server,nowait", path.display()).parse().unwrap();
    fixture.server.serve(&endpoint, Protocol::Human { echo: false }).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"info name\ninfo status\r\ncont\nquit\n").unwrap();
    fixture.vm.wait_for_exit();
    fixture.server.close();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (banner, rest) = text.split_once("\r\n").unwrap();
    assert!(
        banner.starts_with("brolga ") && banner.ends_with(" monitor - type 'help' for more information"),
        "{banner}"
    );
    assert_eq!(rest, "(qemu) vm1\r\n(qemu) VM status: paused (prelaunch)\r\n(qemu) (qemu) (qemu) ");
}

under_each_accelerator!(
    an_event_comes_before_the_answer_that_caused_it_and_to_every_client,
    answers_of_a_closing_server_arrive,
    requests_behind_a_closed_side_are_answered,
    a_hundred_clients_are_served_at_once,
    a_client_that_does_not_read_is_dropped_and_harms_nobody,
    a_flood_does_not_delay_others,
    a_client_that_breaks_off_in_the_middle_leaves_nothing_behind,
    a_long_message_is_taken,
    out_of_band_errors_overtake,
    a_socket_belongs_to_its_user_and_replaces_a_stale_one,
    a_server_that_waits_returns_with_its_first_client,
    a_monitor_can_connect_to_a_listener,
    the_human_monitor_has_a_prompt,
);
