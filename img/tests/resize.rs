//! `resize` and `bench`, and the commands that change what only some formats have.

mod support;

use support::{FORMATS, Pair, RESIZED, noise};

#[test]
fn lengths() {
    for format in RESIZED {
        let pair = Pair::new();
        pair.prepare(&["create", "-q", "-f", format, "image", "2M"]);
        for arguments in [
            &["2M"][..],
            &["+1M"],
            &["3000k"],
            &["--shrink", "-1M"],
            &["--shrink", "1M"],
            &["-q", "+100k"],
            &["--preallocation=full", "2M"],
            &["--preallocation", "falloc", "+1M"],
            &["--shrink", "100k"],
        ] {
            let (size, options) = arguments.split_last().unwrap();
            pair.same(&[&["resize", "-f", format], options, &["image", size]].concat());
            pair.same_disk("image", format);
            if format == &"raw" {
                pair.same_room("image", format);
            }
        }
        pair.same(&["resize", "--shrink", "-f", format, "image", "-1k"]);
        pair.same_disk("image", format);
        for arguments in [
            &["-1k"][..],
            &["--shrink", "-100M"],
            &["0"],
            &["x"],
            &["+x"],
            &["+-1"],
            &[""],
            &["8E"],
            &["--preallocation=full", "--shrink", "1k"],
            &["--preallocation=bla", "4M"],
            &[],
            &["1M", "2M"],
        ] {
            let (size, options) = arguments.split_last().unwrap_or((&"--shrink", &[]));
            pair.same_error(&[&["resize", "-f", format], options, &["image", size]].concat());
            pair.same_disk("image", format);
        }
    }
}

#[test]
fn images_that_keep_their_length() {
    for format in FORMATS.iter().filter(|format| !RESIZED.contains(format)) {
        let pair = Pair::new();
        pair.prepare(&["create", "-q", "-f", format, "image", "2M"]);
        for arguments in [&["4M"][..], &["--shrink", "1M"], &["--preallocation=full", "4M"]] {
            let (size, options) = arguments.split_last().unwrap();
            pair.same_error(&[&["resize", "-f", format], options, &["image", size]].concat());
            pair.same_disk("image", format);
        }
    }
}

#[test]
fn odd_lengths_and_guessed_formats() {
    let pair = Pair::new();
    pair.file("odd.raw", 1000, &[(0, noise(1000, 1))]);
    pair.same(&["resize", "-f", "raw", "odd.raw", "+100"]);
    pair.same_bytes("odd.raw");
    pair.same(&["resize", "--shrink", "odd.raw", "500"]);
    pair.same_bytes("odd.raw");
    pair.same_error(&["resize", "-f", "raw", "odd.raw", "+7E"]);
    pair.same_error(&["resize", "-f", "raw", "--preallocation=metadata", "odd.raw", "4M"]);
    pair.same_error(&["resize", "-f", "foo", "odd.raw", "4M"]);
    pair.same(&["resize", "nowhere.raw", "4M"]);
}

/// Without the time.
fn untimed(text: &str) -> String {
    let timed = |line: &&str| !line.starts_with("Run completed in ");
    assert!(!text.contains("Run completed") || text.lines().last().is_some_and(|line| line.ends_with(" seconds.")));
    text.lines().filter(timed).collect::<Vec<_>>().join("\n")
}

#[test]
fn bench() {
    // A disk of vpc is a little longer than is asked for, and no whole number of requests.
    for format in FORMATS.iter().filter(|format| **format != "vpc") {
        let pair = Pair::new();
        pair.file("source.raw", 2 << 20, &[(0, noise(2 << 20, 4))]);
        pair.prepare(&["convert", "-O", format, "source.raw", "image"]);
        for arguments in [
            &["-c", "100"][..],
            &["-q", "-c", "100"],
            &["-c", "100", "-d", "4", "-s", "64k"],
            &["-c", "50", "-o", "1M", "-S", "8k"],
            &["-c", "50", "-s", "1500"],
            &["-c", "50", "-w"],
            &["-c", "300", "-w", "--pattern", "0x41", "-S", "8k"],
            &["-c", "50", "-w", "--flush-interval", "100"],
            &["-c", "50", "-w", "-d", "5", "--flush-interval", "10"],
            &["-c", "50", "-w", "-d", "5", "--flush-interval", "10", "--no-drain", "-t", "writethrough"],
            &["-c", "10", "-i", "threads"],
            &["-c", "10", "-i", "io_uring"],
            &["-c", "10", "-n", "-t", "none"],
            &["-c", "10", "-U"],
        ] {
            let arguments = [&["bench", "-f", format], arguments, &["image"]].concat();
            let [ours, theirs] = pair.both(&arguments);
            assert_eq!(
                (untimed(&ours.stdout), ours.code),
                (untimed(&theirs.stdout), theirs.code),
                "{arguments:?} {ours:?}"
            );
            assert_eq!((ours.code, ours.stderr.as_str()), (Some(0), ""), "{arguments:?}");
            pair.same_disk("image", format);
        }
        for arguments in [
            &["-c", "0"][..],
            &["-c", "x"],
            &["-d", "0"],
            &["-s", "0"],
            &["-s", "3G"],
            &["-S", "3G"],
            &["-o", "x"],
            &["-w", "--pattern", "256"],
            &["-w", "--flush-interval", "10"],
            &["--flush-interval", "100"],
            &["-i", "foo"],
            &["-n"],
            &["-w", "-U"],
            &["more"],
        ] {
            pair.same_error(&[&["bench", "-f", format], arguments, &["image"]].concat());
        }
        pair.same(&["bench", "-c", "10", "-s", "16M", "image"]);
        pair.same(&["bench", "-c", "10", "-o", "100M", "image"]);
    }
}

#[test]
fn what_raw_images_do_not_have() {
    let pair = Pair::new();
    pair.file("a.raw", 1 << 20, &[(0, noise(4096, 1))]);
    pair.file("b.raw", 1 << 20, &[]);
    for arguments in [
        &["check", "-f", "raw", "a.raw"][..],
        &["check", "--output=json", "-f", "raw", "a.raw"],
        &["check", "-r", "foo", "a.raw"],
        &["check", "-r", "all", "-U", "a.raw"],
        &["check"],
        &["check", "-f", "foo", "a.raw"],
        &["snapshot", "-f", "raw", "a.raw"],
        &["snapshot", "-l", "-f", "raw", "a.raw"],
        &["snapshot", "-f", "raw", "-c", "one", "a.raw"],
        &["snapshot", "-f", "raw", "-a", "one", "a.raw"],
        &["snapshot", "-f", "raw", "-d", "one", "a.raw"],
        &["snapshot", "-l", "-c", "one", "a.raw"],
        &["snapshot"],
        &["rebase", "-f", "raw", "-b", "nowhere.raw", "a.raw"],
        &["rebase", "-f", "raw", "-b", "b.raw", "a.raw"],
        &["rebase", "-f", "raw", "-u", "-b", "b.raw", "-F", "raw", "a.raw"],
        &["rebase", "-f", "raw", "-b", "", "a.raw"],
        &["rebase", "a.raw"],
        &["rebase"],
        &["rebase", "-f", "raw", "-b", "b.raw", "-F", "foo", "a.raw"],
        &["commit", "-f", "raw", "a.raw"],
        &["commit", "-f", "raw", "-b", "foo", "a.raw"],
        &["commit"],
        &["commit", "-r", "x", "a.raw"],
        &["amend", "-f", "raw", "-o", "compat=v3", "a.raw"],
        &["amend", "-f", "raw", "-o", "help"],
        &["amend", "-f", "raw", "-o", "help", "a.raw"],
        &["amend", "a.raw"],
        &["amend", "-o", "x=y"],
        &["bitmap", "--add", "a.raw"],
        &["bitmap", "a.raw", "b"],
        &["bitmap", "--add", "-g", "x", "a.raw", "b"],
        &["bitmap", "--clear", "-g", "64k", "a.raw", "b"],
        &["bitmap", "--add", "-b", "x", "-F", "raw", "a.raw", "b"],
        &["bitmap", "--add", "-F", "raw", "a.raw", "b"],
    ] {
        pair.same_error(arguments);
        pair.same_bytes("a.raw");
    }
}
