use super::request::*;
use super::*;
use crate::test_support::{Driver, raw_disk, wait_for};

fn driver(length: usize, read_only: bool) -> (Driver, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..length).map(|index| (index / 512) as u8).collect();
    std::fs::write(file.path(), bytes).unwrap();
    let disk = raw_disk(file.path(), read_only);
    let mut driver = Driver::new(VirtioBlk::new(disk, "a serial number that is too long").unwrap());
    driver.start();
    (driver, file)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// Sends a request; returns the length used, what came back, and the status.
fn request(driver: &mut Driver, readable: &[&[u8]], room: u32) -> (u32, Vec<u8>, u8) {
    let writable: &[u32] = if room > 0 { &[room, 1] } else { &[1] };
    let chain = driver.add(0, readable, writable);
    driver.notify(0);
    let used = driver.wait_used(0);
    assert_eq!(used[0].0, chain.head);
    let status = driver.read(*chain.writable.last().unwrap(), 1)[0];
    let data = if room > 0 { driver.read(chain.writable[0], room as usize) } else { Vec::new() };
    (used[0].1, data, status)
}

#[test]
fn the_configuration_tells_capacity_and_block_size() {
    let (driver, _file) = driver(512 * 9 + 100, true);
    assert_eq!((driver.config(0, 4), driver.config(4, 4), driver.config(20, 4)), (9, 0, 512));
    assert_eq!(driver.device_features() & F_RO, F_RO);
}

#[test]
fn sectors_are_written_read_back_and_flushed() {
    let (mut driver, file) = driver(512 * 8, false);
    let (used, data, status) = request(&mut driver, &[&header(T_IN, 3)], 1024);
    assert_eq!((used, status), (1025, S_OK));
    assert_eq!((data[0], data[512]), (3, 4));
    let payload = [0xab; 512];
    assert_eq!(request(&mut driver, &[&header(T_OUT, 7), &payload], 0), (1, Vec::new(), S_OK));
    assert_eq!(request(&mut driver, &[&header(T_FLUSH, 0)], 0).2, S_OK);
    assert_eq!(std::fs::read(file.path()).unwrap()[512 * 7..], payload);
}

#[test]
fn what_lies_beyond_the_end_or_is_no_whole_sector_fails() {
    let (mut driver, file) = driver(512 * 8, false);
    let before = std::fs::read(file.path()).unwrap();
    assert_eq!(request(&mut driver, &[&header(T_IN, 7)], 1024).2, S_IOERR);
    assert_eq!(request(&mut driver, &[&header(T_IN, u64::MAX)], 512).2, S_IOERR);
    assert_eq!(request(&mut driver, &[&header(T_IN, 0)], 100).2, S_IOERR);
    assert_eq!(request(&mut driver, &[&header(T_OUT, 8), &[1; 512]], 0).2, S_IOERR);
    assert_eq!(request(&mut driver, &[&header(T_OUT, 0), &[1; 511]], 0).2, S_IOERR);
    assert_eq!(request(&mut driver, &[&header(99, 0)], 0).2, S_UNSUPP);
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
}

#[test]
fn the_serial_number_is_cut_to_twenty_bytes() {
    let (mut driver, _file) = driver(512, false);
    let (_, data, status) = request(&mut driver, &[&header(T_GET_ID, 0)], 20);
    assert_eq!((&data[..], status), (&b"a serial number that"[..], S_OK));
}

#[test]
fn writes_to_a_read_only_disk_fail() {
    let (mut driver, _file) = driver(512, true);
    assert_eq!(request(&mut driver, &[&header(T_OUT, 0), &[1; 512]], 0).2, S_IOERR);
}

#[test]
fn a_request_without_header_or_status_breaks_the_device() {
    for (readable, writable) in [(&[&[0u8; 15][..]][..], &[1u32][..]), (&[&[0; 16]], &[])] {
        let (mut driver, _file) = driver(512, false);
        driver.add(0, readable, writable);
        driver.notify(0);
        driver.wait_needs_reset();
    }
}

/// The data of T_DISCARD and T_WRITE_ZEROES.
fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn sectors_are_made_zero_and_given_up() {
    let (mut driver, file) = driver(512 * 8, false);
    assert_eq!(driver.device_features() & (F_DISCARD | F_WRITE_ZEROES), F_DISCARD | F_WRITE_ZEROES);
    assert_eq!(request(&mut driver, &[&header(T_WRITE_ZEROES, 0), &range(2, 3, 0)], 0).2, S_OK);
    assert_eq!(request(&mut driver, &[&header(T_WRITE_ZEROES, 0), &range(7, 1, 1)], 0).2, S_OK);
    assert_eq!(request(&mut driver, &[&header(T_DISCARD, 0), &range(6, 1, 0)], 0).2, S_OK);
    let bytes = std::fs::read(file.path()).unwrap();
    let kept: Vec<bool> = bytes.chunks(512).map(|sector| sector.iter().any(|byte| *byte != 0)).collect();
    assert_eq!((&kept[1..6], kept[7]), (&[true, false, false, false, true][..], false));
    for (kind, data, expected) in [
        (T_DISCARD, range(0, 9, 0), S_IOERR),
        (T_DISCARD, range(u64::MAX, 1, 0), S_IOERR),
        (T_DISCARD, range(0, 1, 1), S_UNSUPP),
        (T_WRITE_ZEROES, range(0, 1, 2), S_UNSUPP),
        (T_WRITE_ZEROES, range(0, 1, 0)[..15].to_vec(), S_UNSUPP),
        (T_WRITE_ZEROES, [range(0, 1, 0), range(1, 1, 0)].concat(), S_UNSUPP),
        (T_WRITE_ZEROES, range(0, u32::MAX, 0), S_IOERR),
    ] {
        assert_eq!(request(&mut driver, &[&header(kind, 0), &data], 0).2, expected, "{kind} {data:?}");
    }
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
}

/// A disk whose reads wait until they are let through.
struct Slow {
    gate: tokio::sync::Semaphore,
    arrived: AtomicBool,
    /// How a request that waited ended: it was let through, or given up before.
    ends: Arc<Mutex<Vec<End>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    GivenUp,
}

/// Notes the end of a request.
struct Ending(Arc<Mutex<Vec<End>>>, End);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.lock().push(self.1);
    }
}

#[async_trait::async_trait]
impl block::Driver for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }
    fn length(&self) -> u64 {
        512 * 64
    }
    fn is_read_only(&self) -> bool {
        true
    }
    async fn read(&self, offset: u64, to: block::IoVector) -> Result<(), block::Error> {
        if offset > 0 {
            self.arrived.store(true, Ordering::Release);
            let mut ending = Ending(self.ends.clone(), End::GivenUp);
            self.gate.acquire().await.unwrap().forget();
            ending.1 = End::Done;
        }
        to.fill((offset / 512) as u8 + 1);
        Ok(())
    }
    async fn write(&self, _offset: u64, _from: block::IoVector) -> Result<(), block::Error> {
        Err(block::Error::ReadOnly)
    }
    async fn flush(&self) -> Result<(), block::Error> {
        Ok(())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn slow_driver() -> (Driver, Arc<block::Node>) {
    let node = block::Node::new(
        "slow",
        Slow { gate: tokio::sync::Semaphore::new(0), arrived: AtomicBool::new(false), ends: Arc::default() },
    );
    let mut driver = Driver::new(VirtioBlk::new(Backend::new(node.clone()), "").unwrap());
    driver.start();
    (driver, node)
}

fn open_gate(node: &block::Node, count: usize) {
    node.driver_as::<Slow>().unwrap().gate.add_permits(count);
}

#[test]
fn a_slow_request_holds_up_no_other_one() {
    let (mut driver, node) = slow_driver();
    let slow = driver.add(0, &[&header(T_IN, 1)], &[512, 1]);
    driver.notify(0);
    let fast = driver.add(0, &[&header(T_IN, 0)], &[512, 1]);
    driver.notify(0);
    assert_eq!(driver.wait_used(0)[0].0, fast.head);
    open_gate(&node, 1);
    assert_eq!(driver.wait_used(0)[0].0, slow.head);
    assert_eq!(driver.read(slow.writable[0], 512), [2; 512]);
}

#[test]
fn a_reset_waits_for_what_is_under_way() {
    let (mut driver, node) = slow_driver();
    driver.add(0, &[&header(T_IN, 1)], &[512, 1]);
    driver.notify(0);
    wait_for("the request", || node.driver_as::<Slow>().unwrap().arrived.load(Ordering::Acquire));
    let opener = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        open_gate(&node, 1);
        node
    });
    // Starting begins with a reset.
    driver.start();
    let node = opener.join().unwrap();
    assert_eq!(node.driver_as::<Slow>().unwrap().gate.available_permits(), 0, "the reset did not wait");
    assert!(driver.used(0).is_empty());
    let (_, data, status) = request(&mut driver, &[&header(T_IN, 0)], 512);
    assert_eq!((data[0], status), (1, S_OK));
}

#[test]
fn the_end_of_a_device_gives_no_request_up() {
    let (mut driver, node) = slow_driver();
    let slow = node.driver_as::<Slow>().unwrap();
    driver.add(0, &[&header(T_IN, 1)], &[512, 1]);
    driver.notify(0);
    wait_for("the request", || slow.arrived.load(Ordering::Acquire));
    drop(driver);
    // Time for a thread that gives it up. One that does not needs none.
    std::thread::sleep(std::time::Duration::from_millis(20));
    open_gate(&node, 1);
    wait_for("the request's end", || !slow.ends.lock().is_empty());
    assert_eq!(*slow.ends.lock(), [End::Done]);
}
