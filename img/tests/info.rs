//! `info` says of images that `qemu-img` made what `qemu-img` says.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn brolga_img(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_brolga-img")).current_dir(folder).args(arguments).output().unwrap()
}

fn qemu_img(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new("qemu-img").current_dir(folder).args(arguments).output();
    let output = output.expect("qemu-img must be installed");
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

const SECRET: &str = "secret,id=key,data=abc";

/// Images of all kinds that `info` tells apart, by name, and what makes them, one command after the other.
const IMAGES: &[(&str, &[&[&str]])] = &[
    ("plain.raw", &[&["create", "-q", "-f", "raw", "plain.raw", "10M"]]),
    ("plain.qcow2", &[&["create", "-q", "-f", "qcow2", "plain.qcow2", "64M"]]),
    ("old.qcow2", &[&["create", "-q", "-f", "qcow2", "-o", "compat=0.10,cluster_size=512", "old.qcow2", "5M"]]),
    (
        "options.qcow2",
        &[&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "compression_type=zstd,extended_l2=on,lazy_refcounts=on,refcount_bits=64,cluster_size=128k",
            "options.qcow2",
            "1G",
        ]],
    ),
    (
        "data.qcow2",
        &[&["create", "-q", "-f", "qcow2", "-o", "data_file=data.raw,data_file_raw=on", "data.qcow2", "20M"]],
    ),
    (
        "luks.qcow2",
        &[&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "--object",
            SECRET,
            "-o",
            "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10",
            "luks.qcow2",
            "5M",
        ]],
    ),
    (
        "snapshots.qcow2",
        &[
            &["create", "-q", "-f", "qcow2", "snapshots.qcow2", "8M"],
            &["snapshot", "-c", "before", "snapshots.qcow2"],
            &["snapshot", "-c", "behind, and longer than sixteen", "snapshots.qcow2"],
            &["bitmap", "--add", "snapshots.qcow2", "written"],
            &["bitmap", "--add", "--disable", "-g", "128k", "snapshots.qcow2", "not written"],
        ],
    ),
    (
        "above.qcow2",
        &[
            &["create", "-q", "-f", "qcow2", "below.qcow2", "3M"],
            &["create", "-q", "-f", "qcow2", "-b", "below.qcow2", "-F", "qcow2", "above.qcow2"],
        ],
    ),
];

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An image that is not a whole number of sectors long.
const ODD: &str = "odd.raw";

#[test]
fn the_same_as_qemu_img() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(ODD), [0; 1000]).unwrap();
    for (name, commands) in IMAGES.iter().chain(&[(ODD, &[][..])]) {
        for command in *commands {
            qemu_img(folder.path(), command);
        }
        let human = |output: Output| text(&output).trim_end().to_owned();
        for options in [&["info", name][..], &["info", "--backing-chain", name]] {
            assert_eq!(human(brolga_img(folder.path(), options)), human(qemu_img(folder.path(), options)), "{name}");
        }
        for options in [&["info", "--output=json", name][..], &["info", "-b", "--output", "json", name]] {
            let json = |output: Output| serde_json::from_str::<Value>(&text(&output)).unwrap();
            assert_eq!(json(brolga_img(folder.path(), options)), json(qemu_img(folder.path(), options)), "{name}");
        }
    }
    // From another folder the backing file's name is not its path.
    let path = folder.path().join("above.qcow2");
    let options = ["info", path.to_str().unwrap()];
    assert_eq!(
        text(&brolga_img(Path::new("/"), &options)).trim_end(),
        text(&qemu_img(Path::new("/"), &options)).trim_end()
    );
}

#[test]
fn errors_name_the_file_and_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("some.raw"), [0; 4096]).unwrap();
    let fails = |arguments: &[&str], expected: &str| {
        let output = brolga_img(folder.path(), arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    };
    fails(&["info", "nowhere.raw"], "brolga-img: Could not open 'nowhere.raw': No such file or directory");
    fails(&["info", "-f", "qcow2", "some.raw"], "Could not open 'some.raw': Image is not in qcow2 format");
    fails(&["info", "-f", "vmdkk", "some.raw"], "Unknown driver 'vmdkk'");
    fails(&["info"], "Expecting one image file name");
    fails(
        &["info", "nbd:unix:/nowhere"],
        "Could not open 'nbd:unix:/nowhere': images by protocol 'nbd' are not built yet",
    );
    fails(&["info", "json:{}"], "Could not open 'json:{}': descriptions of images in JSON are not built yet");
}

#[test]
fn a_chain_that_goes_round_ends() {
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), &["create", "-q", "-f", "qcow2", "one.qcow2", "1M"]);
    qemu_img(folder.path(), &["create", "-q", "-f", "qcow2", "-b", "one.qcow2", "-F", "qcow2", "two.qcow2"]);
    qemu_img(folder.path(), &["rebase", "-u", "-b", "two.qcow2", "-F", "qcow2", "one.qcow2"]);
    let output = brolga_img(folder.path(), &["info", "--backing-chain", "two.qcow2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("behind itself"), "{output:?}");
}
