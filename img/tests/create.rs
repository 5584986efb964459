//! `create` makes what `qemu-img` makes, and says what it says.

mod support;

use support::{FORMATS, NEVER_EMPTY, Pair, comparable_info};

#[test]
fn raw_images() {
    let pair = Pair::new();
    for arguments in [
        &["create", "a.raw", "10M"][..],
        &["create", "-f", "raw", "a.raw", "1000"],
        &["create", "a.raw", "1.5k", "-f", "raw"],
        &["create", "--form=raw", "a.raw", "0x1000"],
        &["create", "-fraw", "a.raw", "0.1M"],
        &["create", "-q", "a.raw", "1M"],
        &["create", "a.raw", "0"],
        &["create", "-o", "size=2M", "a.raw"],
        &["create", "-o", "size=1,size=2", "a.raw"],
        &["create", "-o", "size=2M,nocow=on", "a.raw"],
        &["create", "-o", "nonocow", "a.raw", "1M"],
        &["create", "-o", "nocow=yes", "a.raw", "1M"],
        &["create", "-o", "preallocation=off", "a.raw", "1M"],
        &["create", "-o", "preallocation=falloc", "a.raw", "1M"],
        &["create", "-o", "preallocation=full,size=1M", "-o", "nocow=off", "a.raw"],
        &["create", "-o", "extent_size_hint=0", "a.raw", "1M"],
        &["create", "file:a.raw", "1M"],
        &["create", "./with:colon", "1M"],
        &["create", "it's.raw", "1M"],
    ] {
        pair.same(arguments);
        let name = arguments.iter().find(|argument| argument.ends_with(".raw")).map_or("./with:colon", |name| name);
        let name = name.trim_start_matches("file:");
        pair.same_bytes(name);
        pair.same_room(name, "raw");
    }
}

#[test]
fn images_of_each_format() {
    for format in FORMATS {
        let pair = Pair::new();
        for size in ["0", "1000", "64M", "65M"] {
            if size == "0" && NEVER_EMPTY.contains(format) {
                continue;
            }
            pair.same(&["create", "-f", format, "image", size]);
            let info = pair.both(&["info", "-f", format, "image"]).map(|answer| comparable_info(&answer.stdout));
            assert_eq!(info[0], info[1]);
            pair.same_disk("image", format);
        }
    }
}

#[test]
fn qcow2_images() {
    let pair = Pair::new();
    pair.file("below.raw", 3 << 20, &[(4096, vec![1; 8192])]);
    for arguments in [
        &["create", "-f", "qcow2", "-o", "compat=0.10,cluster_size=512", "a.qcow2", "5M"][..],
        &[
            "create",
            "-f",
            "qcow2",
            "-o",
            "compression_type=zstd,extended_l2=on,lazy_refcounts=on,refcount_bits=64,cluster_size=128k",
            "a.qcow2",
            "1G",
        ],
        &["create", "-f", "qcow2", "-o", "preallocation=metadata", "a.qcow2", "8M"],
        &["create", "-f", "qcow2", "-o", "preallocation=falloc", "a.qcow2", "8M"],
        &["create", "-f", "qcow2", "-o", "preallocation=full", "a.qcow2", "8M"],
        &["create", "-f", "qcow2", "-o", "data_file=data.raw,data_file_raw=on", "a.qcow2", "20M"],
        &["create", "-f", "qcow2", "-b", "below.raw", "-F", "raw", "a.qcow2"],
        &["create", "-f", "qcow2", "-b", "below.raw", "-F", "raw", "a.qcow2", "4M"],
        &["create", "-f", "qcow2", "-o", "backing_file=below.raw,backing_fmt=raw", "a.qcow2"],
    ] {
        pair.same(arguments);
        pair.same_disk("a.qcow2", "qcow2");
        pair.same_room("a.qcow2", "qcow2");
        if arguments.iter().all(|argument| !argument.contains("preallocation=f")) {
            let info = pair.both(&["info", "a.qcow2"]).map(|answer| comparable_info(&answer.stdout));
            assert_eq!(info[0], info[1]);
        }
    }
    pair.same(&["create", "-f", "qcow2", "-u", "-b", "nowhere", "-F", "raw", "b.qcow2", "4M"]);
    let info = pair.both(&["info", "b.qcow2"]).map(|answer| comparable_info(&answer.stdout));
    assert_eq!(info[0], info[1]);
}

#[test]
fn errors() {
    let pair = Pair::new();
    pair.file("below.raw", 1 << 20, &[]);
    for arguments in [
        &["create", "a.raw", "10X"][..],
        &["create", "a.raw", "--", "-1"],
        &["create", "a.raw", "16E"],
        &["create", "a.raw", "8E"],
        &["create", "a.raw", "7E"],
        &["create", "a.raw", ""],
        &["create", "a.raw"],
        &["create"],
        &["create", "a.raw", "1M", "2M"],
        &["create", "-f", "foo", "a.raw", "1M"],
        &["create", "-o", "foo=1", "a.raw", "1M"],
        &["create", "-o", "preallocation=metadata", "a.raw", "1M"],
        &["create", "-o", "preallocation=of,,f", "a.raw", "1M"],
        &["create", "-o", "size=2M", "a.raw", "3M"],
        &["create", "-o", "nocow", "a.raw", "3M"],
        &["create", "-o", "nocow=bla", "a.raw", "3M"],
        &["create", "-o", "size=bla", "a.raw"],
        &["create", "-o", "size=-1", "a.raw"],
        &["create", "-o", "preallocation=full,", "a.raw", "1M"],
        &["create", "-o", ",preallocation=full", "a.raw", "1M"],
        &["create", "-o", "", "a.raw", "1M"],
        &["create", "-o", "=x", "a.raw", "1M"],
        &["create", "-b", "below.raw", "a.raw", "1M"],
        &["create", "-F", "raw", "a.raw", "1M"],
        &["create", "nowhere/a.raw", "1M"],
        &["create", ".", "1M"],
        &["create", "foo:a.raw", "1M"],
        &["create", "--bla", "a.raw", "1M"],
        &["create", "-X", "a.raw", "1M"],
        &["create", "-f", "qcow2", "-b", "below.raw", "a.qcow2"],
        &["create", "-f", "qcow2", "-b", "nowhere", "-F", "raw", "a.qcow2"],
        &["create", "-f", "qcow2", "-b", "below.raw", "-F", "foo", "a.qcow2"],
        &["create", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "a.qcow2", "1M"],
        &["create", "-f", "qcow2", "-o", "cluster_size=3", "a.qcow2", "1M"],
        &["create", "-f", "qcow2", "-o", "refcount_bits=x", "a.qcow2", "1M"],
        &["create", "-f", "qcow2", "-o", "compat=2", "a.qcow2", "1M"],
        &["foo"],
        &[],
    ] {
        if arguments == ["create", "foo:a.raw", "1M"] {
            assert!(pair.both(arguments)[0].stderr.contains("Unknown protocol 'foo'"));
        } else {
            pair.same_error(arguments);
        }
        // What failed leaves nothing.
        assert!(!pair.ours("a.raw").exists() && !pair.ours("a.qcow2").exists(), "{arguments:?}");
    }
    for (arguments, text) in [
        (["create", "nbd:unix:/nowhere", "1M"], "images by protocol 'nbd' are not built yet"),
        (["create", "json:{\"driver\":\"raw\"}", "1M"], "descriptions of images in JSON are not built yet"),
        (["create", "--object=secret,id=key,data=abc", "a.raw"], "--object is not built yet"),
    ] {
        let [ours, _] = pair.both(&arguments);
        assert_eq!(ours.code, Some(1));
        assert!(ours.stderr.contains(text), "{arguments:?}: {ours:?}");
    }
}

#[test]
fn the_options_of_a_format() {
    let pair = Pair::new();
    for arguments in [
        &["create", "-f", "raw", "-o", "help"][..],
        &["create", "-f", "raw", "-o", "size=1,?", "a.raw"],
        &["create", "-f", "qcow2", "-o", "help"],
        &["create", "-f", "qcow2", "-o", "help", "a.qcow2", "1M"],
        &["convert", "-O", "qcow2", "-o", "help"],
        &["create", "-f", "qcow", "-o", "help"],
        &["create", "-f", "vdi", "-o", "help"],
        &["create", "-f", "vhdx", "-o", "help"],
        &["create", "-f", "vmdk", "-o", "help"],
        &["create", "-f", "vpc", "-o", "help"],
        &["create", "-f", "parallels", "-o", "help"],
        &["create", "-f", "vmdk", "-o", "help", "a.vmdk"],
    ] {
        let [ours, theirs] = pair.both(arguments);
        // What options are for is said in other words.
        let names = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.split(" - ").next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!((names(&ours.stdout), ours.code), (names(&theirs.stdout), theirs.code), "{arguments:?}");
        assert!(!pair.ours("a.raw").exists());
    }
}
