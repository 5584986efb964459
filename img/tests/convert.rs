//! `convert` and `dd` copy as `qemu-img` does.

mod support;

use support::{FORMATS, NEVER_EMPTY, Pair, mixed, noise};

/// A source of each kind that tests have.
fn sources() -> Pair {
    let pair = Pair::new();
    let (length, data) = mixed();
    pair.file("mixed.raw", length, &data);
    pair.file("zero.raw", 3 << 20, &[]);
    pair.file("odd.raw", 1000, &[(0, vec![5; 1000])]);
    pair.file("tiny.raw", 2, &[(0, vec![6; 2])]);
    pair.file("empty.raw", 0, &[]);
    for format in FORMATS.iter().filter(|format| **format != "raw") {
        for name in ["mixed", "odd"] {
            pair.prepare(&["convert", "-O", format, &format!("{name}.raw"), &format!("{name}.{format}")]);
        }
    }
    pair
}

#[test]
fn each_format_to_each() {
    for from in FORMATS {
        for to in FORMATS {
            let pair = sources();
            let all = [&[][..], &["-W", "-m", "3"], &["-S", "0"], &["-S", "64k"], &["-m", "1", "-t", "writeback"]];
            // What is read and what is written do not depend on one another.
            let of_pair = if [*from, *to].iter().any(|format| ["raw", "qcow2"].contains(format)) { 5 } else { 1 };
            for options in &all[..of_pair] {
                for name in ["mixed", "odd"] {
                    let source = format!("{name}.{from}");
                    let arguments = [&["convert", "-f", from, "-O", to], *options, &[&source, "target"]].concat();
                    pair.same(&arguments);
                    pair.same_disk("target", to);
                    pair.same_room("target", to);
                }
            }
        }
    }
}

#[test]
fn odd_and_several_sources() {
    let pair = sources();
    for names in [
        &["zero.raw"][..],
        &["tiny.raw"],
        &["empty.raw"],
        &["mixed.raw", "odd.raw"],
        &["odd.raw", "mixed.raw", "tiny.raw"],
        &["empty.raw", "zero.raw", "odd.raw"],
        &["mixed.qcow2", "odd.raw"],
    ] {
        for to in FORMATS {
            if names == ["empty.raw"] && NEVER_EMPTY.contains(to) {
                continue;
            }
            pair.same(&[&["convert", "-O", to], names, &["target"]].concat());
            pair.same_disk("target", to);
        }
    }
    for cache in ["none", "directsync", "writethrough"] {
        pair.same(&["convert", "-T", cache, "-t", cache, "mixed.raw", "odd.raw", "target"]);
        pair.same_bytes("target");
    }
}

#[test]
fn compressed() {
    let pair = sources();
    for options in [&[][..], &["-W"], &["-o", "compression_type=zstd,cluster_size=16k"]] {
        pair.same(&[&["convert", "-c", "-O", "qcow2"], options, &["mixed.raw", "odd.raw", "target"]].concat());
        pair.same_disk("target", "qcow2");
        pair.same_room("target", "qcow2");
    }
    pair.same_error(&["convert", "-c", "mixed.raw", "target.raw"]);
}

#[test]
fn over_a_target_that_is_there() {
    let pair = sources();
    for (length, options) in [(6 << 20, &["-n"][..]), (8 << 20, &["-n", "-W"]), (6 << 20, &["-n", "-S", "0"])] {
        pair.file("target.raw", length, &[(0, noise(6 << 20, 8))]);
        let more = if length > 6 << 20 { vec![] } else { vec!["tiny.raw"] };
        pair.same(&[&["convert"], options, &["mixed.raw"], &more[..], &["target.raw"]].concat());
        let ours = std::fs::read(pair.ours("target.raw")).unwrap();
        let theirs = std::fs::read(pair.theirs("target.raw")).unwrap();
        assert!(ours[..5 << 20] == theirs[..5 << 20], "{options:?}");
    }
    pair.file("target.raw", 6 << 20, &[]);
    pair.same(&["convert", "-n", "--target-is-zero", "mixed.raw", "target.raw"]);
    pair.same_bytes("target.raw");
    pair.file("target.raw", 4 << 20, &[]);
    pair.same_error(&["convert", "-n", "mixed.raw", "target.raw"]);
    pair.same_bytes("target.raw");
    pair.same_error(&["convert", "-n", "-O", "qcow2", "mixed.raw", "target.raw"]);
    pair.same_error(&["convert", "-n", "mixed.raw", "nowhere.raw"].map(|name| name));
}

#[test]
fn in_front_of_another_image() {
    let pair = sources();
    pair.prepare(&["create", "-q", "-f", "qcow2", "-b", "mixed.raw", "-F", "raw", "top.qcow2", "7M"]);
    for folder in pair.folders() {
        let written = std::process::Command::new("qemu-io")
            .current_dir(folder)
            .args(["-c", "write -P 9 1M 100k", "-c", "write -z 3M 64k", "-c", "write -P 3 6M 1k", "top.qcow2"])
            .output()
            .expect("qemu-io must be installed");
        assert!(written.status.success(), "{written:?}");
    }
    pair.same(&["convert", "-O", "qcow2", "-B", "mixed.raw", "-F", "raw", "top.qcow2", "target.qcow2"]);
    pair.same_disk("target.qcow2", "qcow2");
    pair.same_room("target.qcow2", "qcow2");
    pair.same(&["convert", "top.qcow2", "whole.raw"]);
    pair.same_bytes("whole.raw");
    pair.same_error(&["convert", "-B", "mixed.raw", "mixed.raw", "c.raw"]);
    pair.same_error(&["convert", "-O", "qcow2", "-B", "mixed.raw", "mixed.raw", "c.qcow2"]);
    pair.same_error(&["convert", "-O", "qcow2", "-F", "raw", "mixed.raw", "c.qcow2"]);
}

#[test]
fn made_ready() {
    let pair = sources();
    for mode in ["off", "falloc", "full"] {
        for to in FORMATS {
            pair.same(&["convert", "-O", to, "-o", &format!("preallocation={mode}"), "mixed.raw", "target"]);
            pair.same_disk("target", to);
            pair.same_room("target", to);
        }
    }
}

#[test]
fn progress() {
    let pair = sources();
    let [ours, theirs] = pair.both(&["convert", "-p", "mixed.raw", "target.raw"]);
    for answer in [&ours, &theirs] {
        assert!(answer.stdout.starts_with("    (0.00/100%)\r"), "{answer:?}");
        assert!(answer.stdout.ends_with("    (100.00/100%)\r\n"), "{answer:?}");
    }
    pair.same(&["convert", "-p", "-q", "mixed.raw", "target.raw"]);
}

#[test]
fn errors() {
    let pair = sources();
    for arguments in [
        &["convert"][..],
        &["convert", "mixed.raw"],
        &["convert", "-O", "foo", "mixed.raw", "a.raw"],
        &["convert", "-f", "foo", "mixed.raw", "a.raw"],
        &["convert", "-f", "qcow2", "mixed.raw", "a.raw"],
        &["convert", "mixed.raw", "nowhere/a.raw"],
        &["convert", "-S", "1000", "mixed.raw", "a.raw"],
        &["convert", "-S", "x", "mixed.raw", "a.raw"],
        &["convert", "-S", "4G", "mixed.raw", "a.raw"],
        &["convert", "-m", "0", "mixed.raw", "a.raw"],
        &["convert", "-m", "17", "mixed.raw", "a.raw"],
        &["convert", "-m", "x", "mixed.raw", "a.raw"],
        &["convert", "-r", "x", "mixed.raw", "a.raw"],
        &["convert", "-t", "bla", "mixed.raw", "a.raw"],
        &["convert", "-T", "bla", "mixed.raw", "a.raw"],
        &["convert", "-o", "foo=1", "mixed.raw", "a.raw"],
        &["convert", "-o", "preallocation=metadata", "mixed.raw", "a.raw"],
        &["convert", "-n", "-o", "size=1M", "mixed.raw", "a.raw"],
        &["convert", "--target-is-zero", "mixed.raw", "a.raw"],
        &["convert", "--skip-broken-bitmaps", "mixed.raw", "a.raw"],
        &["convert", "-C", "-c", "mixed.raw", "a.raw"],
        &["convert", "-C", "-S", "4k", "mixed.raw", "a.raw"],
        &["convert", "-C", "--salvage", "mixed.raw", "a.raw"],
        &["convert", "foo:bar", "a.raw"],
    ] {
        pair.same_error(arguments);
        assert!(!pair.ours("a.raw").exists(), "{arguments:?}");
    }
    for (arguments, text) in [
        (&["convert", "-C", "mixed.raw", "a.raw"][..], "-C) is not built yet"),
        (&["convert", "-l", "one", "mixed.raw", "a.raw"], "-l) is not built yet"),
        (&["convert", "--image-opts", "file.filename=mixed.raw", "a.raw"], "--image-opts is not built yet"),
        (&["convert", "--target-image-opts", "-n", "mixed.raw", "a.raw"], "--target-image-opts is not built yet"),
        (&["convert", "--bitmaps", "mixed.qcow2", "a.raw"], "--bitmaps) is not built yet"),
        (&["convert", "mixed.raw", "nbd:unix:/nowhere"], "protocol 'nbd' are not built yet"),
        (&["convert", "mixed.raw", "mixed.raw"], "the image is in use as a source"),
        (&["dd", "if=mixed.raw", "of=mixed.raw"], "the image is in use as a source"),
    ] {
        let before = std::fs::read(pair.ours("mixed.raw")).unwrap();
        let ours = pair.ours_alone(arguments);
        assert_eq!(ours.code, Some(1), "{arguments:?}: {ours:?}");
        assert!(ours.stderr.contains(text), "{arguments:?}: {ours:?}");
        assert!(!pair.ours("a.raw").exists(), "{arguments:?}");
        assert!(std::fs::read(pair.ours("mixed.raw")).unwrap() == before, "{arguments:?}");
    }
}

#[test]
fn dd() {
    for to in FORMATS {
        let pair = sources();
        for operands in [
            &["if=mixed.raw"][..],
            &["if=odd.raw", "bs=300"],
            &["bs=1M", "count=2", "if=mixed.raw"],
            &["bs=1M", "skip=1", "count=2", "if=mixed.raw"],
            &["bs=3k", "skip=1", "if=mixed.raw"],
            &["bs=1M", "skip=100", "if=mixed.raw"],
            &["count=0", "if=mixed.raw"],
            &["bs=1M", "count=100", "if=mixed.qcow2"],
        ] {
            if NEVER_EMPTY.contains(to) && ["skip=100", "count=0"].iter().any(|none| operands.contains(none)) {
                continue;
            }
            pair.same(&[&["dd", "-O", to], operands, &["of=target"]].concat());
            pair.same_disk("target", to);
        }
    }
    let pair = sources();
    for operands in [
        &["bs=0", "if=mixed.raw", "of=a.raw"][..],
        &["bs=x", "if=mixed.raw", "of=a.raw"],
        &["bs=4G", "if=mixed.raw", "of=a.raw"],
        &["count=x", "if=mixed.raw", "of=a.raw"],
        &["skip=-1", "if=mixed.raw", "of=a.raw"],
        &["foo=1", "if=mixed.raw", "of=a.raw"],
        &["foo", "if=mixed.raw", "of=a.raw"],
        &["if=mixed.raw"],
        &[],
        &["-O", "foo", "if=mixed.raw", "of=a.raw"],
        &["-f", "foo", "if=mixed.raw", "of=a.raw"],
        &["if=mixed.raw", "of=nowhere/a.raw"],
    ] {
        pair.same_error(&[&["dd"], operands].concat());
        assert!(!pair.ours("a.raw").exists(), "{operands:?}");
    }
}
