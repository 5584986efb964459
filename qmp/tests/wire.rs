//! The protocol against exchanges recorded with QEMU 7.2.

mod support;

use qmp::json::{Format, write};
use qmp::session::{Answer, Dialogue, greeting};
use support::{On, machine};

const RECORD: &str = include_str!("data/qemu-7.2-wire.txt");

/// Bytes that the record shows escaped.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.extend(character.to_string().bytes());
            continue;
        }
        match rest.next() {
            Some('n') => bytes.push(b'\n'),
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            Some(other @ ('\\' | '\'')) => bytes.push(other as u8),
            other => panic!("unknown escape {other:?} in {text}"),
        }
    }
    bytes
}

/// Everything that comes back for `input`, line by line.
fn answers(dialogue: &mut Dialogue, input: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    dialogue.push(input);
    while let Some(request) = dialogue.next_request() {
        let message = match dialogue.begin(request) {
            Answer::Message(message) => message,
            Answer::Call(call) => call.run(),
        };
        let line = String::from_utf8(write(&message, Format::Line)).unwrap();
        lines.push(line.strip_suffix("\r\n").expect("a line ends in CR LF").to_owned());
    }
    lines
}

#[test]
fn exchanges_are_those_that_were_recorded() {
    let vm = machine(On::JitRiscv64, |_| {});
    let mut dialogue = Dialogue::new(vm.clone());
    let mut lines = RECORD.lines().filter(|line| !line.starts_with('#')).peekable();
    let mut exchanges = 0;
    while let Some(line) = lines.next() {
        if line.is_empty() {
            dialogue = Dialogue::new(vm.clone());
            continue;
        }
        let (name, input) = line.split_at(35);
        let mut expected: Vec<String> = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("      ")) {
            // The recorded machine is one that its host's KVM could run, ours is not.
            expected.push(line[9..].replace(r#""present": true"#, r#""present": false"#));
        }
        assert_eq!(answers(&mut dialogue, &unescape(input)), expected, "{name}");
        exchanges += 1;
    }
    assert_eq!(exchanges, 58);
}

#[test]
fn deep_nesting_is_echoed_or_refused_and_the_next_command_works() {
    let mut dialogue = Dialogue::new(machine(On::JitRiscv64, |_| {}));
    answers(&mut dialogue, b"{'execute':'qmp_capabilities'}");
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let request = |depth| format!("{{'execute':'query-target','id':{}}}", nested(depth));
    let target = r#"{"return": {"arch": "riscv64"}"#;
    assert_eq!(answers(&mut dialogue, request(1000).as_bytes()), [format!("{target}, \"id\": {}}}", nested(1000))]);
    let generic = |text| format!(r#"{{"error": {{"class": "GenericError", "desc": "{text}"}}}}"#);
    let refused = answers(&mut dialogue, request(1100).as_bytes());
    let expecting_value = generic("JSON parse error, expecting value");
    let expected = [
        generic("JSON nesting depth limit exceeded"),
        generic("QMP input must be a JSON object"),
        expecting_value.clone(),
        expecting_value,
    ];
    assert_eq!(refused[..4], expected);
    assert_eq!(answers(&mut dialogue, b"{'execute':'query-target'}"), [format!("{target}}}")]);
}

#[test]
fn arguments_are_checked_in_qemu_s_words() {
    let mut dialogue = Dialogue::new(machine(On::JitRiscv64, |_| {}));
    answers(&mut dialogue, b"{'execute':'qmp_capabilities'}");
    for (request, text) in [
        ("{'execute':'memsave','arguments':{'val':0,'size':1}}", "Parameter 'filename' is missing"),
        ("{'execute':'pmemsave'}", "Parameter 'val' is missing"),
        ("{'execute':'query-status','arguments':{'zz':1}}", "Parameter 'zz' is unexpected"),
        (
            "{'execute':'human-monitor-command','arguments':{'command-line':1}}",
            "Invalid parameter type for 'command-line', expected: string",
        ),
        ("{'execute':'cpu','arguments':{'index':'0'}}", "Invalid parameter type for 'index', expected: integer"),
        (
            "{'execute':'memsave','arguments':{'val':0,'size':16,'filename':'/x','cpu-index':9}}",
            "Parameter 'cpu-index' expects a CPU number",
        ),
        (
            "{'execute':'human-monitor-command','arguments':{'command-line':'info status','cpu-index':7}}",
            "Parameter 'cpu-index' expects a CPU number",
        ),
        (
            "{'execute':'pmemsave','arguments':{'val':0,'size':16,'filename':'/nonexist/m'}}",
            "Could not open '/nonexist/m': No such file or directory",
        ),
        ("{'execute':'inject-nmi'}", "machine does not provide NMIs"),
    ] {
        let expected = format!(r#"{{"error": {{"class": "GenericError", "desc": "{text}"}}}}"#);
        assert_eq!(answers(&mut dialogue, request.as_bytes()), [expected], "{request}");
    }
    for name in qmp::commands::NOT_BUILT {
        let expected =
            format!(r#"{{"error": {{"class": "CommandNotFound", "desc": "The command {name} has not been found"}}}}"#);
        assert_eq!(answers(&mut dialogue, format!("{{'execute':'{name}'}}").as_bytes()), [expected]);
    }
}

#[test]
fn queries_answer_in_qemu_s_form() {
    let uuid = "550e8400-e29b-41d4-a716-446655440000";
    let mut dialogue = Dialogue::new(machine(On::JitRiscv64, |config| {
        config.name = Some("vm1".into());
        config.uuid = Some(uuid.parse().unwrap());
    }));
    let greeting = greeting();
    assert_eq!(greeting["QMP"]["version"]["qemu"]["major"], 10);
    assert_eq!(greeting["QMP"]["capabilities"], serde_json::json!(["oob"]));
    answers(&mut dialogue, b"{'execute':'qmp_capabilities'}");
    let mut ask = |command: &str| -> serde_json::Value {
        let answers = answers(&mut dialogue, format!("{{'execute':'{command}'}}").as_bytes());
        assert_eq!(answers.len(), 1, "{command}");
        serde_json::from_str::<serde_json::Value>(&answers[0]).unwrap()["return"].take()
    };
    assert_eq!(ask("query-version"), greeting["QMP"]["version"]);
    assert_eq!(ask("query-name"), serde_json::json!({"name": "vm1"}));
    assert_eq!(ask("query-uuid"), serde_json::json!({"UUID": uuid}));
    let commands = ask("query-commands");
    assert!(commands.as_array().unwrap().contains(&serde_json::json!({"name": "query-commands"})));
    let events = ask("query-events");
    for name in ["BLOCK_IO_ERROR", "RESET", "SHUTDOWN", "STOP"] {
        assert!(events.as_array().unwrap().contains(&serde_json::json!({ "name": name })), "{name}");
    }
    let machines = ask("query-machines");
    let default = machines.as_array().unwrap().iter().find(|machine| machine["is-default"] == true).unwrap();
    assert_eq!(default["name"], "virt");
    assert!(default["cpu-max"].as_i64() >= Some(4));
    let cpus = ask("query-cpus");
    assert_eq!((cpus[1]["CPU"].as_i64(), cpus[1]["pc"].as_i64()), (Some(1), Some(0x1000)));
    assert_eq!((&cpus[0]["current"], &cpus[1]["current"]), (&true.into(), &false.into()));
    let fast = ask("query-cpus-fast");
    assert_eq!((&fast[1]["cpu-index"], &fast[1]["thread-id"]), (&1.into(), &cpus[1]["thread_id"]));
}

#[test]
fn memory_is_saved_to_files() {
    let vm = machine(On::JitRiscv64, |_| {});
    vm.write_physical(0x8000_0000, b"0123456789abcdef");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory");
    let mut dialogue = Dialogue::new(vm);
    answers(&mut dialogue, b"{'execute':'qmp_capabilities'}");
    for (command, more) in [("pmemsave", ""), ("memsave", ""), ("memsave", ",'cpu-index':1"), ("memsave", ",'cpu':1")] {
        let request = format!(
            "{{'execute':'{command}','arguments':{{'val':2147483652,'size':8,'filename':'{}'{more}}}}}",
            path.display()
        );
        assert_eq!(answers(&mut dialogue, request.as_bytes()), [r#"{"return": {}}"#], "{request}");
        assert_eq!(std::fs::read(&path).unwrap(), b"456789ab");
        std::fs::remove_file(&path).unwrap();
    }
    // What is no memory reads as zero, even at the end of the address space.
    let request = format!(
        "{{'execute':'pmemsave','arguments':{{'val':1152921504606846976,'size':3,'filename':'{}'}}}}",
        path.display()
    );
    assert_eq!(answers(&mut dialogue, request.as_bytes()), [r#"{"return": {}}"#]);
    assert_eq!(std::fs::read(&path).unwrap(), [0, 0, 0]);
}
