use futures_executor::block_on;

use super::*;
use crate::MemoryDisk;
use crate::filters::blkdebug::{Blkdebug, BlkdebugEvent, BlkdebugOptions, InjectError};

fn node(name: &str, byte: u8) -> Arc<Node> {
    Node::new(name, MemoryDisk::new(vec![byte; 3 << 20], false))
}

fn failing(name: &str, errno: i32) -> Arc<Node> {
    let rule = InjectError { errno, ..InjectError::after(BlkdebugEvent::None) };
    let options = BlkdebugOptions { inject_error: vec![rule], ..BlkdebugOptions::default() };
    Node::new(name, Blkdebug::new(options, node("below", 1)).unwrap())
}

type Told = Arc<Mutex<Vec<QuorumEvent>>>;

fn quorum(options: QuorumOptions, children: Vec<Arc<Node>>) -> (Arc<Node>, Told) {
    let (told, quorum) = (Told::default(), Quorum::new(options, children).unwrap());
    let listener = told.clone();
    quorum.listen(Box::new(move |event| listener.lock().push(event)));
    (Node::new("quorum", quorum), told)
}

fn of(vote_threshold: u64) -> QuorumOptions {
    QuorumOptions { vote_threshold, ..QuorumOptions::default() }
}

/// The events, shortened.
fn shown(told: &Told) -> Vec<String> {
    let events = std::mem::take(&mut *told.lock());
    let show = |event| match event {
        QuorumEvent::Failure { sector_num, sectors_count } => format!("failure {sector_num} {sectors_count}"),
        QuorumEvent::ReportBad { operation, error, node_name, sector_num, sectors_count } => {
            format!("{node_name} {} {} {sector_num} {sectors_count}", operation.name(), error.unwrap_or_default())
        }
    };
    events.into_iter().map(show).collect()
}

#[test]
fn options_that_cannot_be_together_are_refused_as_qemu_does() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("disk"), [0; 512]).unwrap();
    for (options, count, list) in [
        (of(2), 1, "vote-threshold=2"),
        (of(0), 1, "vote-threshold=0"),
        (QuorumOptions { blkverify: true, ..of(1) }, 1, "vote-threshold=1,blkverify=on"),
        (QuorumOptions { blkverify: true, ..of(2) }, 2, "vote-threshold=2,blkverify=on"),
        (
            QuorumOptions { blkverify: true, rewrite_corrupted: true, ..of(2) },
            2,
            "vote-threshold=2,blkverify=on,rewrite-corrupted=on",
        ),
    ] {
        let files = (0..count).map(|child| format!("children.{child}.driver=null-co")).collect::<Vec<_>>().join(",");
        let output = std::process::Command::new("qemu-io")
            .args(["--image-opts", &format!("driver=quorum,{list},{files}"), "-c", "length"])
            .output();
        let ours = Quorum::new(options, (0..count).map(|_| node("node", 0)).collect());
        let ours = ours.err().map(|error| format!("qemu-io: can't open: {error}\n")).unwrap_or_default();
        match output {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stderr), ours, "{list}"),
            Err(_) => eprintln!("SKIPPED: options_that_cannot_be_together_are_refused_as_qemu_does: no qemu-io"),
        }
    }
    assert!(Quorum::new(of(1), Vec::new()).is_err());
}

#[test]
fn most_disks_decide() {
    let (disk, told) = quorum(of(2), vec![node("a", 1), node("b", 2), node("c", 1)]);
    assert_eq!(block_on(disk.read_vec(700, 1000)).unwrap(), [1; 1000]);
    assert_eq!(shown(&told), ["b read  1 3"]);
    let (disk, told) = quorum(of(2), vec![node("a", 1), node("b", 2), node("c", 3)]);
    assert_eq!(block_on(disk.read_vec(0, 512)).unwrap_err().errno(), libc::EIO);
    assert_eq!(shown(&told), ["failure 0 1"]);
}

#[test]
fn disks_that_fail_do_no_harm_while_enough_others_do_not() {
    let (disk, told) = quorum(of(2), vec![failing("a", libc::ENOSPC), node("b", 2), node("c", 2)]);
    block_on(async {
        assert_eq!(disk.read_vec(0, 512).await.unwrap(), [2; 512]);
        disk.write_bytes(0, &[7; 2 << 20]).await.unwrap();
        disk.flush().await.unwrap();
        disk.write_zeroes(512, 512, ZeroFlags::empty()).await.unwrap();
    });
    let words = "No space left on device";
    let expected = ["read", "write", "write", "flush", "write"].map(|verb| format!("a {verb} {words}"));
    let places = ["0 1", "0 2048", "2048 2048", "0 0", "1 1"];
    let expected: Vec<String> = expected.iter().zip(places).map(|(text, place)| format!("{text} {place}")).collect();
    assert_eq!(shown(&told), expected);

    let (disk, told) =
        quorum(of(2), vec![failing("a", libc::ENOSPC), failing("b", libc::EIO), failing("c", libc::EIO)]);
    assert_eq!(block_on(disk.write_bytes(0, &[1; 512])).unwrap_err().errno(), libc::EIO);
    assert_eq!(shown(&told).last().unwrap(), "failure 0 1");
    assert_eq!(block_on(disk.read_vec(0, 512)).unwrap_err().errno(), libc::EIO);
}

#[test]
fn what_differs_is_made_the_same_if_that_is_wanted() {
    for rewrite_corrupted in [false, true] {
        let odd = node("odd", 9);
        let options = QuorumOptions { rewrite_corrupted, ..of(2) };
        let (disk, _told) = quorum(options, vec![odd.clone(), node("b", 1), node("c", 1)]);
        assert_eq!(block_on(disk.read_vec(1024, 512)).unwrap(), [1; 512]);
        let expected = if rewrite_corrupted { 1 } else { 9 };
        assert_eq!(block_on(odd.read_vec(1023, 514)).unwrap(), [&[9][..], &[expected; 512], &[9]].concat());
    }
}

#[test]
fn two_disks_must_not_differ_if_that_is_wanted() {
    let options = QuorumOptions { blkverify: true, ..of(2) };
    let (disk, _told) = quorum(options, vec![node("a", 1), node("b", 1)]);
    assert_eq!(block_on(disk.read_vec(0, 512)).unwrap(), [1; 512]);
    let (disk, _told) = quorum(options, vec![node("a", 1), node("b", 2)]);
    let error = block_on(disk.read_vec(512, 1024)).unwrap_err();
    assert_eq!(error.to_string(), "quorum: offset=512 bytes=1024 contents mismatch at offset 512");
}

#[test]
fn the_first_disk_that_can_be_read_is_enough_if_that_is_wanted() {
    let options = QuorumOptions { read_pattern: ReadPattern::Fifo, ..of(1) };
    let (disk, told) = quorum(options, vec![failing("a", libc::EIO), node("b", 2), node("c", 3)]);
    assert_eq!(block_on(disk.read_vec(0, 512)).unwrap(), [2; 512]);
    assert_eq!(shown(&told), ["a read Input/output error 0 1"]);
    let (disk, _told) = quorum(options, vec![failing("a", libc::EIO)]);
    assert!(block_on(disk.read_vec(0, 512)).is_err());
}
