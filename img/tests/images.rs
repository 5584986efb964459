//! `check`, `snapshot`, `commit`, `rebase` and `amend` do to qcow2 images what `qemu-img` does.

mod support;

use std::os::unix::fs::FileExt;

use serde_json::Value;
use support::{Answer, Pair, comparable_info, noise};

/// Has qemu-io write in both folders.
fn write(pair: &Pair, image: &str, commands: &[&str]) {
    for folder in pair.folders() {
        let arguments = commands.iter().flat_map(|command| ["-c", command]);
        let written =
            std::process::Command::new("qemu-io").current_dir(folder).args(arguments).arg(image).output().unwrap();
        assert!(written.status.success(), "{written:?}");
    }
}

/// An image with data, some of it compressed; and with these refcounts (of 16 bits in the first block) changed.
fn image(refcounts: &[(u64, u16)]) -> Pair {
    let pair = Pair::new();
    pair.prepare(&["create", "-q", "-f", "qcow2", "image", "1M"]);
    write(&pair, "image", &["write -P 1 0 256k", "write -c -P 3 512k 64k"]);
    for folder in pair.folders() {
        let file = std::fs::File::options().read(true).write(true).open(folder.join("image")).unwrap();
        let number = |offset| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, offset).unwrap();
            u64::from_be_bytes(bytes)
        };
        let block = number(number(48));
        for (cluster, count) in refcounts {
            file.write_all_at(&count.to_be_bytes(), block + cluster * 2).unwrap();
            if file.metadata().unwrap().len() < (cluster + 1) << 16 {
                file.set_len((cluster + 1) << 16).unwrap();
            }
        }
    }
    pair
}

#[test]
fn check() {
    for refcounts in [&[][..], &[(20, 1), (21, 1)], &[(6, 0)], &[(6, 0), (20, 1)]] {
        for options in [&[][..], &["-q"], &["-U", "-T", "none"]] {
            let pair = image(refcounts);
            pair.same(&[&["check"], options, &["image"]].concat());
            pair.same_bytes("image");
        }
        for options in [&["--output=json"][..], &["--output=json", "-r", "all"]] {
            let pair = image(refcounts);
            let [ours, theirs] = pair.both(&[&["check"], options, &["image"]].concat());
            let json = |answer: &Answer| -> Value {
                let mut value: Value = serde_json::from_str(&answer.stdout).unwrap();
                // How refcounts are made anew is each one's own.
                if options.len() > 1 && refcounts.contains(&(6, 0)) {
                    for name in ["image-end-offset", "corruptions-fixed", "leaks-fixed"] {
                        value.as_object_mut().unwrap().remove(name);
                    }
                }
                value
            };
            assert_eq!((json(&ours), ours.code), (json(&theirs), theirs.code), "{refcounts:?} {options:?} {ours:?}");
        }
    }
    for mode in ["leaks", "all"] {
        let pair = image(&[(20, 1), (21, 1)]);
        pair.same(&["check", "-r", mode, "image"]);
        pair.same(&["check", "image"]);
        pair.same_disk("image", "qcow2");
    }
    let pair = image(&[(6, 0)]);
    assert_eq!(pair.both(&["check", "-r", "all", "-q", "image"]).map(|answer| answer.code), [Some(0); 2]);
    pair.same_disk("image", "qcow2");
}

#[test]
fn snapshots() {
    let pair = image(&[]);
    // Without the date.
    let same_list = |arguments: &[&str]| {
        let rows = pair.both(arguments).map(|answer| {
            let without = |line: &str| {
                line.split_whitespace().filter(|word| !word.contains(['-', ':'])).collect::<Vec<_>>().join(" ")
            };
            (answer.code, answer.stdout.lines().map(without).collect::<Vec<_>>())
        });
        assert_eq!(rows[0], rows[1]);
    };
    same_list(&["snapshot", "image"]);
    pair.same(&["snapshot", "-c", "one", "image"]);
    write(&pair, "image", &["write -P 7 128k 256k"]);
    pair.same(&["snapshot", "-c", "two", "image"]);
    pair.same(&["snapshot", "-c", "one", "image"]);
    same_list(&["snapshot", "-l", "image"]);
    write(&pair, "image", &["write -P 8 0 1M"]);
    for arguments in [
        ["snapshot", "-a", "one", "image"],
        ["snapshot", "-a", "2", "image"],
        ["snapshot", "-d", "one", "image"],
        ["snapshot", "-d", "one", "image"],
    ] {
        pair.same(&arguments);
        pair.same_disk("image", "qcow2");
        same_list(&["snapshot", "-l", "image"]);
    }
    pair.same_error(&["snapshot", "-d", "2", "image"]);
    pair.same_error(&["snapshot", "-d", "nosuch", "image"]);
    pair.same_error(&["snapshot", "-a", "nosuch", "image"]);
    pair.same_error(&["snapshot", "-c", "x", "-U", "image"]);
}

#[test]
fn commit() {
    for (base, format) in [("base.raw", "raw"), ("base.qcow2", "qcow2")] {
        for options in [&[][..], &["-d"], &["-q"], &["-b", base], &["-r", "100M"]] {
            let pair = Pair::new();
            pair.file("base.raw", 2 << 20, &[(0, noise(1 << 20, 1))]);
            if format != "raw" {
                pair.prepare(&["convert", "-O", format, "base.raw", base]);
            }
            pair.prepare(&["create", "-q", "-f", "qcow2", "-b", base, "-F", format, "top", "3M"]);
            write(&pair, "top", &["write -P 5 1000k 100k", "write -z 128k 64k", "write -P 3 2900k 10k"]);
            pair.same(&[&["commit"], options, &["top"]].concat());
            pair.same_disk(base, format);
            pair.same_disk("top", "qcow2");
            pair.same_room("top", "qcow2");
        }
    }
    let pair = Pair::new();
    pair.file("base.raw", 2 << 20, &[(0, noise(1 << 20, 1))]);
    pair.prepare(&["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle"]);
    pair.prepare(&["create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top"]);
    write(&pair, "middle", &["write -P 5 1000k 100k"]);
    write(&pair, "top", &["write -P 6 1050k 100k", "write -z 0 64k"]);
    pair.same_error(&["commit", "-b", "nowhere", "top"]);
    pair.same(&["commit", "-b", "base.raw", "top"]);
    pair.same_bytes("base.raw");
    pair.same(&["commit", "top"]);
    pair.same_disk("middle", "qcow2");
    pair.same_disk("top", "qcow2");
    let [ours, theirs] = pair.both(&["commit", "-p", "middle"]);
    for answer in [ours, theirs] {
        assert!(answer.stdout.ends_with("    (100.00/100%)\r\nImage committed.\n"), "{answer:?}");
    }
    pair.same_bytes("base.raw");
}

#[test]
fn rebase() {
    let chain = || {
        let pair = Pair::new();
        pair.file("old.raw", 2 << 20, &[(0, noise(1 << 20, 1))]);
        let mut other = noise(1 << 20, 1);
        other[300_000..400_000].fill(4);
        pair.file("new.raw", (1 << 20) + 512, &[(0, other)]);
        pair.prepare(&["create", "-q", "-f", "qcow2", "-b", "new.raw", "-F", "raw", "new.qcow2", "4M"]);
        pair.prepare(&["create", "-q", "-f", "qcow2", "-b", "old.raw", "-F", "raw", "top", "3M"]);
        write(&pair, "top", &["write -P 5 1000k 100k", "write -z 128k 64k", "write -P 3 2900k 10k"]);
        pair.prepare(&["snapshot", "-c", "one", "top"]);
        pair
    };
    for options in [
        &["-b", "new.raw", "-F", "raw"][..],
        &["-b", "new.qcow2", "-F", "qcow2"],
        &["-b", "old.raw", "-F", "raw", "-t", "none", "-T", "none"],
        &["-b", ""],
        &["-q", "-u", "-b", "new.raw", "-F", "raw"],
        &["-u", "-b", "new.qcow2", "-F", "qcow2"],
        &["-u"],
    ] {
        let pair = chain();
        pair.same(&[&["rebase", "-f", "qcow2"], options, &["top"]].concat());
        pair.same_disk("top", "qcow2");
        pair.same_room("top", "qcow2");
        let info = pair.both(&["info", "top"]).map(|answer| {
            let stays = |line: &&str| !line.contains("disk size") && !line.contains("file length");
            answer.stdout.lines().filter(stays).collect::<Vec<_>>().join("\n")
        });
        assert_eq!(info[0], info[1], "{options:?}");
    }
    let pair = chain();
    let [ours, theirs] = pair.both(&["rebase", "-p", "-b", "new.raw", "-F", "raw", "top"]);
    for answer in [ours, theirs] {
        assert!(answer.stdout.starts_with("    (0.00/100%)\r"), "{answer:?}");
        assert!(answer.stdout.ends_with("    (100.00/100%)\r\n"), "{answer:?}");
    }
    pair.same_error(&["rebase", "-b", "nowhere", "-F", "raw", "top"]);
    pair.same_error(&["rebase", "-b", "new.raw", "top"]);
    pair.prepare(&["create", "-q", "-f", "qcow2", "-b", "top", "-F", "qcow2", "upper"]);
    let ours = pair.ours_alone(&["rebase", "-b", "upper", "-F", "qcow2", "top"]);
    assert!(ours.code == Some(1) && ours.stderr.contains("Could not open new backing file 'upper'"), "{ours:?}");
}

#[test]
fn amend() {
    let made = |options: &str| {
        let pair = Pair::new();
        pair.file("base.raw", 1 << 20, &[(0, noise(1 << 20, 1))]);
        pair.prepare(&["create", "-q", "-f", "qcow2", "-o", options, "image", "2M"]);
        let zeros = if options.contains("0.10") { "write -P 2 128k 64k" } else { "write -z 128k 100k" };
        write(&pair, "image", &["write -P 1 0 256k", "write -c -P 3 512k 64k", zeros, "write -P 5 2000k 10k"]);
        pair
    };
    let same_image = |pair: &Pair| {
        pair.same_disk("image", "qcow2");
        let info = pair.both(&["info", "image"]).map(|answer| comparable_info(&answer.stdout));
        assert_eq!(info[0], info[1]);
    };
    for before in [
        "compat=0.10",
        "compat=1.1",
        "compat=0.10,backing_file=base.raw,backing_fmt=raw",
        "compat=1.1,lazy_refcounts=on",
        "compat=1.1,backing_file=base.raw,backing_fmt=raw",
        "compat=1.1,cluster_size=512",
        "compat=0.10,cluster_size=4k",
    ] {
        let pair = made(before);
        for change in [
            "compat=1.1",
            "lazy_refcounts=on",
            "lazy_refcounts=off",
            "size=3M",
            "size=2500k,compat=v2",
            "compat=0.10",
            "refcount_bits=16",
            "compat=v3,lazy_refcounts=on,size=4M",
            "compat=0.10",
            "size=1M",
        ] {
            pair.same(&["amend", "-f", "qcow2", "-o", change, "image"]);
            same_image(&pair);
        }
    }
    let pair = made("compat=0.10");
    let [ours, theirs] = pair.both(&["amend", "-p", "-o", "compat=1.1", "image"]);
    for answer in [ours, theirs] {
        assert!(answer.stdout.starts_with("    (0.00/100%)\r"), "{answer:?}");
        assert!(answer.stdout.ends_with("    (100.00/100%)\r\n"), "{answer:?}");
    }
    let pair = made("compat=0.10");
    for change in [
        "lazy_refcounts=on",
        "compat=2",
        "refcount_bits=64",
        "refcount_bits=3",
        "backing_file=base.raw",
        "backing_fmt=raw",
        "data_file=x",
        "data_file_raw=on",
        "cluster_size=4k",
        "foo=1",
        "encrypt.state=active",
        "preallocation=off",
    ] {
        pair.same_error(&["amend", "-f", "qcow2", "-o", change, "image"]);
        same_image(&pair);
    }
    for options in ["extended_l2=on,cluster_size=16k", "refcount_bits=8", "data_file=data"] {
        let pair = made_with(options);
        pair.same_error(&["amend", "-f", "qcow2", "-o", "compat=0.10", "image"]);
        same_image(&pair);
    }
    for is_compressed in [false, true] {
        let pair = made_with("compression_type=zstd");
        if is_compressed {
            write(&pair, "image", &["write -c -P 3 512k 64k"]);
        }
        let arguments = ["amend", "-f", "qcow2", "-o", "compat=0.10", "image"];
        if is_compressed {
            pair.same_error(&arguments)
        } else {
            drop(pair.same(&arguments))
        }
        same_image(&pair);
    }
    // The same options, in other words.
    let names = |answer: Answer| {
        answer.stdout.lines().map(|line| line.split(" - ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    for arguments in [&["amend", "-f", "qcow2", "-o", "help"][..], &["amend", "-o", "help", "image"]] {
        let [ours, theirs] = pair.both(arguments).map(names);
        assert_eq!(ours, theirs, "{arguments:?}");
    }
}

/// An empty image.
fn made_with(options: &str) -> Pair {
    let pair = Pair::new();
    pair.prepare(&["create", "-q", "-f", "qcow2", "-o", options, "image", "2M"]);
    pair
}
