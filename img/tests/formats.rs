//! Images of formats with several forms: what this tool makes and fills `qemu-img` reads, and the other way round.

mod support;

use support::{FORMATS, Pair, UNCHECKED, comparable_info, mixed, noise, qemu_img};

/// Formats, and options that make images in another form.
const FORMS: &[(&str, &str)] = &[
    ("qcow", "nocow=off"),
    ("vdi", "static=off"),
    ("vdi", "static=on"),
    ("vpc", "subformat=dynamic"),
    ("vpc", "subformat=fixed"),
    ("vpc", "force_size=on"),
    ("vpc", "subformat=fixed,force_size=on"),
    ("vhdx", "block_size=1M"),
    ("vhdx", "block_size=32M,log_size=3M"),
    ("vhdx", "log_size=200M"),
    ("vhdx", "subformat=fixed"),
    ("vhdx", "subformat=fixed,block_state_zero=off"),
    ("parallels", "cluster_size=64k"),
    ("parallels", "cluster_size=3M"),
    ("parallels", "cluster_size=4M"),
    ("vmdk", "adapter_type=lsilogic,toolsversion=7"),
    ("vmdk", "compat6=on"),
    ("vmdk", "zeroed_grain=on"),
    ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "subformat=twoGbMaxExtentSparse,zeroed_grain=on"),
    ("vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vmdk", "subformat=streamOptimized"),
    ("vmdk", "subformat=streamOptimized,zeroed_grain=on"),
];

fn sources() -> Pair {
    let pair = Pair::new();
    let (length, data) = mixed();
    pair.file("mixed.raw", length, &data);
    pair.file("text.raw", 2 << 20, &[(0, b"some text ".repeat(20_000)), (1 << 20, noise(200_000, 5))]);
    pair
}

/// Runs our tool, which succeeds.
fn ours(pair: &Pair, arguments: &[&str]) -> String {
    let answer = pair.ours_alone(arguments);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    answer.stdout
}

/// `qemu-img` finds nothing wrong, and the disk of a raw image.
fn assert_theirs_agrees(pair: &Pair, format: &str, image: &str, raw: &str) {
    let [folder, _] = pair.folders();
    if !UNCHECKED.contains(&format) {
        qemu_img(folder, &["check", "-q", "-f", format, image]);
    }
    qemu_img(folder, &["compare", "-q", "-f", "raw", "-F", format, raw, image]);
}

#[test]
fn made_by_one_and_read_by_the_other() {
    let pair = sources();
    let [folder, _] = pair.folders();
    let cases = FORMS.iter().copied().chain(FORMATS.iter().map(|format| (*format, "")));
    for (format, options) in cases.filter(|(format, _)| *format != "raw") {
        let options: &[&str] = if options.is_empty() { &[] } else { &["-o", options] };
        ours(&pair, &[&["convert", "-O", format], options, &["mixed.raw", "image.vmdk"]].concat());
        assert_theirs_agrees(&pair, format, "image.vmdk", "mixed.raw");
        qemu_img(folder, &["convert", "-f", format, "-O", "raw", "image.vmdk", "back.raw"]);
        ours(&pair, &["compare", "-f", format, "-F", "raw", "image.vmdk", "back.raw"]);

        qemu_img(folder, &[&["convert", "-O", format], options, &["mixed.raw", "theirs.vmdk"]].concat());
        ours(&pair, &["compare", "-f", "raw", "-F", format, "mixed.raw", "theirs.vmdk"]);
        ours(&pair, &["convert", "-f", format, "theirs.vmdk", "ours.raw"]);
        assert_theirs_agrees(&pair, format, "theirs.vmdk", "ours.raw");
        // What is said of both.
        let info = ["image.vmdk", "theirs.vmdk"].map(|name| {
            let text = ours(&pair, &["info", "-f", format, name]);
            comparable_info(&text).replace("theirs", "image")
        });
        assert_eq!(info[0], info[1], "{format} {options:?}");
    }
}

#[test]
fn made_empty() {
    for (format, options) in FORMS {
        let pair = Pair::new();
        for size in ["1000", "9M", "3G"] {
            if size == "3G" && options.contains("fixed") {
                continue;
            }
            pair.same(&["create", "-f", format, "-o", options, "image.vmdk", size]);
            pair.same_disk("image.vmdk", format);
            pair.same_room("image.vmdk", format);
            let info = pair.both(&["info", "-f", format, "image.vmdk"]).map(|answer| comparable_info(&answer.stdout));
            assert_eq!(info[0], info[1], "{format} {options}");
        }
    }
}

#[test]
fn what_new_images_are_told() {
    let pair = sources();
    pair.prepare(&["create", "-q", "-f", "vmdk", "below.vmdk", "3M"]);
    pair.prepare(&["create", "-q", "-f", "qcow", "below.qcow", "3M"]);
    for (format, options) in [
        ("vdi", &["-o", "preallocation=metadata", "a", "1M"][..]),
        ("vdi", &["a", "512T"]),
        ("vdi", &["-b", "mixed.raw", "-F", "raw", "a"]),
        ("vpc", &["-o", "subformat=x", "a", "1M"]),
        ("vpc", &["-o", "force_size=x", "a", "1M"]),
        ("vpc", &["-o", "preallocation=metadata", "a", "1M"]),
        ("vpc", &["a", "2041G"]),
        ("vpc", &["-o", "force_size=on", "a", "2041G"]),
        ("vhdx", &["-o", "subformat=x", "a", "1M"]),
        ("vhdx", &["-o", "block_size=3M", "a", "1M"]),
        ("vhdx", &["-o", "block_size=x", "a", "1M"]),
        ("vhdx", &["-o", "log_size=0", "a", "1M"]),
        ("vhdx", &["-o", "log_size=4G", "a", "1M"]),
        ("vhdx", &["a", "65T"]),
        ("parallels", &["-o", "cluster_size=0", "a", "1M"]),
        ("parallels", &["-o", "cluster_size=2G", "a", "1M"]),
        ("parallels", &["-o", "cluster_size=512", "a", "8T"]),
        ("parallels", &["a", "4096T"]),
        ("qcow", &["a", "0"]),
        ("qcow", &["-b", "mixed.raw", "a"]),
        ("qcow", &["-u", "-b", "mixed.raw", "a", "1M"]),
        ("qcow", &["-F", "foo", "a", "1M"]),
        ("qcow", &["-b", "nowhere", "-F", "raw", "a"]),
        ("qcow", &["-o", "encryption=on", "a", "1M"]),
        ("qcow", &["-o", "encrypt.format=aes", "a", "1M"]),
        ("qcow", &["-o", "encrypt.format=luks", "a", "1M"]),
        ("qcow", &["-o", "encrypt.format=foo", "a", "1M"]),
        ("qcow", &["-o", "encryption=on,encrypt.format=aes", "a", "1M"]),
        ("vmdk", &["-o", "subformat=foo", "a", "1M"]),
        ("vmdk", &["-o", "adapter_type=foo", "a", "1M"]),
        ("vmdk", &["-o", "compat6=on,hwversion=3", "a", "1M"]),
        ("vmdk", &["-o", "subformat=monolithicFlat,zeroed_grain=on", "a", "1M"]),
        ("vmdk", &["-o", "subformat=twoGbMaxExtentFlat", "-b", "below.vmdk", "-F", "vmdk", "a"]),
        ("vmdk", &["-F", "raw", "a", "1M"]),
        ("vmdk", &["-b", "mixed.raw", "-F", "raw", "a"]),
        ("vmdk", &["-u", "-b", "mixed.raw", "-F", "vmdk", "a", "1M"]),
        ("vmdk", &["-u", "-b", "nowhere", "-F", "vmdk", "a", "1M"]),
        ("vmdk", &["-o", "preallocation=metadata", "a", "1M"]),
        ("vmdk", &["nowhere/a", "1M"]),
        ("vhdx", &["nowhere/a", "1M"]),
    ] {
        pair.same_error(&[&["create", "-f", format], options].concat());
        assert!(!pair.ours("a").exists(), "{format} {options:?}");
    }
    // What is rounded, and what is not looked at.
    for (format, options) in [
        ("vhdx", &["-o", "block_size=1", "a", "10M"][..]),
        ("vhdx", &["-o", "block_size=5G", "a", "10M"]),
        ("vhdx", &["-o", "log_size=1500k", "a", "10M"]),
        ("vhdx", &["-o", "block_size=2M", "a", "10M"]),
        ("vhdx", &["-o", "preallocation=full", "a", "10M"]),
        ("parallels", &["-o", "cluster_size=1000", "a", "10M"]),
        ("vpc", &["a", "127G"]),
        ("vpc", &["a", "128G"]),
        ("vpc", &["-o", "force_size=on", "a", "10000001"]),
        ("vdi", &["-o", "static=on,preallocation=full", "a", "1M"]),
        ("qcow", &["-F", "raw", "a", "1M"]),
        ("qcow", &["-b", "mixed.raw", "-F", "raw", "a"]),
        ("qcow", &["-b", "below.qcow", "-F", "qcow", "a", "4M"]),
        ("qcow", &["-u", "-b", "below.qcow", "-F", "qcow", "a", "4M"]),
        ("vmdk", &["-b", "below.vmdk", "-F", "vmdk", "a"]),
        ("vmdk", &["-o", "subformat=twoGbMaxExtentSparse", "-b", "below.vmdk", "-F", "vmdk", "a", "4M"]),
        ("vmdk", &["-F", "vmdk", "-o", "hwversion=7,preallocation=falloc", "a", "1M"]),
    ] {
        pair.same(&[&["create", "-f", format], options].concat());
        pair.same_disk("a", format);
        let info = pair.both(&["info", "-f", format, "a"]).map(|answer| comparable_info(&answer.stdout));
        assert_eq!(info[0], info[1], "{format} {options:?}");
    }
}

#[test]
fn compressed() {
    let pair = sources();
    let [folder, _] = pair.folders();
    for (format, options, is_smaller) in [
        ("qcow", &["-c"][..], true),
        ("qcow", &["-c", "-W", "-m", "16"], true),
        ("vmdk", &["-c", "-o", "subformat=streamOptimized"], true),
        ("vmdk", &["-W", "-o", "subformat=streamOptimized"], true),
        ("vmdk", &["-c"], false),
        ("vmdk", &["-c", "-o", "subformat=twoGbMaxExtentSparse"], false),
    ] {
        for raw in ["text.raw", "mixed.raw"] {
            ours(&pair, &[&["convert", "-O", format], options, &[raw, "target"]].concat());
            assert_theirs_agrees(&pair, format, "target", raw);
            ours(&pair, &["compare", "-F", format, raw, "target"]);
            // It ends with a code that is not 0 where the image is of this format, and has made it.
            let arguments = [&["convert", "-O", format], options, &[raw, "theirs"]].concat();
            let theirs = std::process::Command::new("qemu-img").current_dir(folder).args(&arguments).output().unwrap();
            assert!(theirs.status.success() || format == "qcow", "{arguments:?}: {theirs:?}");
            let [our_length, length] = ["target", "theirs"].map(|name| pair.ours(name).metadata().unwrap().len());
            assert!(our_length <= length + (64 << 10), "{arguments:?}: {our_length} and {length}");
            assert!(!is_smaller || raw != "text.raw" || length < 400_000, "{arguments:?}: {length}");
        }
    }
    for options in [&["-O", "vmdk", "-o", "subformat=monolithicFlat"][..], &["-O", "vdi"], &["-O", "parallels"]] {
        pair.same_error(&[&["convert", "-c"], options, &["mixed.raw", "b"]].concat());
    }
}

#[test]
fn in_front_of_another_image() {
    for (format, options) in [
        ("qcow", "nocow=off"),
        ("vmdk", "zeroed_grain=off"),
        ("vmdk", "zeroed_grain=on"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", "subformat=streamOptimized"),
    ] {
        let pair = sources();
        pair.prepare(&["convert", "-O", format, "mixed.raw", "below"]);
        pair.prepare(&["create", "-q", "-f", "qcow2", "-b", "below", "-F", format, "top", "5767168"]);
        for folder in pair.folders() {
            let arguments = ["-c", "write -P 9 1M 100k", "-c", "write -z 3M 64k", "-c", "write -P 3 5500k 1k", "top"];
            let written = std::process::Command::new("qemu-io").current_dir(folder).args(arguments).output().unwrap();
            assert!(written.status.success(), "{written:?}");
        }
        let target = ["-O", format, "-o", options, "-B", "below", "-F", format];
        ours(&pair, &[&["convert", "-f", "qcow2"], &target[..], &["top", "target"]].concat());
        let [folder, _] = pair.folders();
        qemu_img(folder, &["compare", "-q", "-f", "qcow2", "-F", format, "top", "target"]);
        ours(&pair, &["compare", "-f", "qcow2", "-F", format, "top", "target"]);
    }
}
