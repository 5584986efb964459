//! `compare`, `map` and `measure` say what `qemu-img` says.

mod support;

use support::{FORMATS, Pair, mixed, noise};

fn images() -> Pair {
    let pair = Pair::new();
    let (length, data) = mixed();
    pair.file("mixed.raw", length, &data);
    let changed = |more: (u64, Vec<u8>)| data.iter().cloned().chain([more]).collect::<Vec<_>>();
    pair.file("early.raw", length, &changed((100, vec![0x55; 3])));
    pair.file("late.raw", length, &changed(((4 << 20) + 7, vec![1])));
    pair.file("longer.raw", 6 << 20, &data);
    pair.file("longer-data.raw", 6 << 20, &changed(((5 << 20) + 10_000, vec![1])));
    pair.file("allocated.raw", 2 << 20, &[(0, vec![0; 2 << 20])]);
    pair.file("zero.raw", 2 << 20, &[]);
    pair.file("odd.raw", 1000, &[]);
    pair.file("tiny.raw", 2, &[(0, vec![6; 2])]);
    pair.file("empty.raw", 0, &[]);
    for format in FORMATS.iter().filter(|format| **format != "raw") {
        for name in ["mixed", "late", "zero"] {
            pair.prepare(&["convert", "-O", format, &format!("{name}.raw"), &format!("{name}.{format}")]);
        }
    }
    pair.file("text.raw", 1 << 20, &[(0, b"some text ".repeat(20_000))]);
    pair.prepare(&["convert", "-c", "-O", "qcow2", "text.raw", "compressed.qcow2"]);
    pair.prepare(&["create", "-q", "-f", "qcow2", "-b", "mixed.raw", "-F", "raw", "top.qcow2", "7M"]);
    for folder in pair.folders() {
        let written = std::process::Command::new("qemu-io")
            .current_dir(folder)
            .args(["-c", "write -P 9 1M 100k", "-c", "write -z 3M 64k", "top.qcow2"])
            .output()
            .expect("qemu-io must be installed");
        assert!(written.status.success(), "{written:?}");
    }
    pair
}

#[test]
fn compare() {
    let pair = images();
    for format in FORMATS {
        for (first, second) in [("mixed", "mixed"), ("mixed", "late"), ("late", "mixed"), ("zero", "mixed")] {
            let (first, second) = (format!("{first}.raw"), format!("{second}.{format}"));
            pair.same(&["compare", &first, &second]);
            pair.same(&["compare", "-F", format, &first, &second]);
            pair.same(&["compare", "-q", &first, &second]);
            pair.same(&["compare", "-s", &first, &second]);
        }
    }
    for (first, second) in [
        ("mixed.raw", "early.raw"),
        ("mixed.raw", "longer.raw"),
        ("longer.raw", "mixed.raw"),
        ("mixed.raw", "longer-data.raw"),
        ("longer-data.raw", "mixed.raw"),
        ("allocated.raw", "zero.raw"),
        ("empty.raw", "zero.raw"),
        ("empty.raw", "tiny.raw"),
        ("odd.raw", "zero.raw"),
        ("top.qcow2", "mixed.raw"),
        ("compressed.qcow2", "text.raw"),
        ("zero.qcow2", "zero.raw"),
    ] {
        pair.same(&["compare", first, second]);
        pair.same(&["compare", "-s", first, second]);
        pair.same(&["compare", "-T", "none", first, second]);
    }
    let [ours, theirs] = pair.both(&["compare", "-p", "mixed.raw", "mixed.raw"]);
    for answer in [ours, theirs] {
        assert!(answer.stdout.starts_with("    (0.00/100%)\r"), "{answer:?}");
        assert!(answer.stdout.ends_with("    (100.00/100%)\rImages are identical.\n\n"), "{answer:?}");
    }
    for arguments in [
        &["compare", "-f", "foo", "zero.raw", "zero.raw"][..],
        &["compare", "-f", "qcow2", "zero.raw", "zero.raw"],
        &["compare", "-T", "bla", "zero.raw", "zero.raw"],
        &["compare", "zero.raw"],
        &["compare", "zero.raw", "zero.raw", "zero.raw"],
        &["compare", "--bla"],
    ] {
        pair.same_error(arguments);
    }
    pair.same(&["compare", "zero.raw", "nowhere.raw"]);
    pair.same(&["compare", "nowhere.raw", "zero.raw"]);
}

#[test]
fn map() {
    let pair = images();
    for name in
        ["mixed.raw", "zero.raw", "allocated.raw", "odd.raw", "tiny.raw", "empty.raw", "mixed.qcow2", "top.qcow2"]
    {
        pair.same(&["map", name]);
        pair.same(&["map", "--output=json", name]);
        pair.same(&["map", "--output", "json", "--start-offset=1M", "--max-length=3000000", name]);
        pair.same(&["map", "--output", "json", "-s", "1000", "-l", "2000", "-U", name]);
        pair.same(&["map", "--output=json", "--start-offset=20M", name]);
        pair.same(&["map", "--output=json", "--max-length=0", name]);
    }
    pair.same(&["map", "--output=json", "compressed.qcow2"]);
    pair.same_error(&["map", "compressed.qcow2"]);
    for arguments in [
        &["map"][..],
        &["map", "zero.raw", "zero.raw"],
        &["map", "--output=json", "--start-offset=x", "zero.raw"],
        &["map", "--start-offset=-1", "zero.raw"],
        &["map", "--output=xml", "zero.raw"],
        &["map", "-f", "foo", "zero.raw"],
    ] {
        pair.same_error(arguments);
    }
    pair.same(&["map", "nowhere.raw"]);
}

#[test]
fn measure() {
    let pair = images();
    for to in FORMATS {
        for name in ["mixed.raw", "zero.raw", "odd.raw", "empty.raw"] {
            pair.same(&["measure", "-O", to, name]);
            pair.same(&["measure", "-O", to, "--output=json", "-f", "raw", name]);
        }
        for size in ["0", "1000", "10M", "1G", "3T"] {
            pair.same(&["measure", "-O", to, "--size", size]);
        }
    }
    for options in ["cluster_size=512", "refcount_bits=64,cluster_size=2M", "extended_l2=on", "preallocation=full"] {
        pair.same(&["measure", "-O", "qcow2", "-o", options, "--size", "10G"]);
        pair.same(&["measure", "-O", "qcow2", "-o", options, "mixed.raw"]);
    }
    for arguments in [
        &["measure"][..],
        &["measure", "-O", "foo", "zero.raw"],
        &["measure", "-O", "raw", "-o", "foo=1", "zero.raw"],
        &["measure", "-O", "qcow2", "-o", "cluster_size=3", "--size", "1M"],
        &["measure", "zero.raw", "zero.raw"],
        &["measure", "--size=1M", "zero.raw"],
        &["measure", "--size=x"],
        &["measure", "--size=1M", "-f", "raw"],
    ] {
        pair.same_error(arguments);
    }
}

#[test]
fn images_with_many_extents() {
    let pair = Pair::new();
    let data: Vec<_> = (0..200).map(|index| (index * 12288, noise(4096, index))).collect();
    pair.file("many.raw", 3 << 20, &data);
    pair.same(&["map", "--output=json", "many.raw"]);
    pair.same(&["convert", "-O", "qcow2", "-o", "cluster_size=4k", "many.raw", "many.qcow2"]);
    pair.same_disk("many.qcow2", "qcow2");
    pair.same_room("many.qcow2", "qcow2");
    pair.same(&["compare", "-p", "-q", "many.raw", "many.qcow2"]);
}
