use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::clock::manual::ManualClock;

fn group(config: ThrottleConfig) -> (Arc<ThrottleGroup>, ManualClock) {
    let clock = ManualClock::default();
    (ThrottleGroup::new("group", config, Arc::new(clock.clone())).unwrap(), clock)
}

type Request<'a> = BoxFuture<'a, Result<(), Error>>;

fn request(member: &ThrottleMember, direction: Direction, bytes: u64) -> Request<'_> {
    Box::pin(member.admit(direction, bytes))
}

/// It began.
fn is_admitted(request: &mut Request) -> bool {
    request.as_mut().now_or_never().is_some_and(|admitted| admitted.is_ok())
}

/// How many requests one after the other begin at once.
fn at_once(member: &ThrottleMember, direction: Direction, bytes: u64) -> usize {
    (0..1000).take_while(|_| is_admitted(&mut request(member, direction, bytes))).count()
}

#[test]
fn limits_that_cannot_be_together_are_refused_as_qemu_does() {
    let limit = |average, max, max_length| Limit { average, max, max_length };
    let with = |change: fn(&mut ThrottleConfig)| {
        let mut config = ThrottleConfig::default();
        change(&mut config);
        config
    };
    let total = |limit| ThrottleConfig { bps_total: limit, ..ThrottleConfig::default() };
    let cases = [
        (
            with(|config| (config.bps_total, config.bps_read) = (Limit::of(1), Limit::of(2))),
            "x-bps-total=1,x-bps-read=2",
        ),
        (with(|config| config.iops_size = 3), "x-iops-size=3"),
        (with(|config| (config.iops_size, config.bps_total) = (4, Limit::of(2))), "x-iops-size=4,x-bps-total=2"),
        (total(limit(MOST, 0, 1)), "x-bps-total=1000000000000000"),
        (total(limit(MOST + 1, 0, 1)), "x-bps-total=1000000000000001"),
        (total(limit(0, 0, 0)), "x-bps-total-max-length=0"),
        (total(limit(0, 0, 2)), "x-bps-total-max-length=2"),
        (total(limit(0, 2, 1)), "x-bps-total-max=2"),
        (total(limit(5, 2, 1)), "x-bps-total=5,x-bps-total-max=2"),
        (
            total(limit(5, MOST / 2, 200_000)),
            "x-bps-total=5,x-bps-total-max=500000000000000,x-bps-total-max-length=200000",
        ),
        (total(limit(5, 10, 30)), "x-bps-total=5,x-bps-total-max=10,x-bps-total-max-length=30"),
        (
            with(|config| config.iops_write = Limit { average: 7, max: 8, max_length: 1 }),
            "x-iops-write=7,x-iops-write-max=8",
        ),
    ];
    for (config, options) in cases {
        let output = std::process::Command::new("qemu-io")
            .args(["--object", &format!("throttle-group,id=g,{options}"), "--image-opts"])
            .args(["driver=throttle,throttle-group=g,file.driver=null-co", "-c", "length"])
            .output();
        let ours = config.check().err().map(|error| format!("qemu-io: {error}\n")).unwrap_or_default();
        match output {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stderr), ours, "{options}"),
            Err(_) => eprintln!("SKIPPED: limits_that_cannot_be_together_are_refused_as_qemu_does: no qemu-io"),
        }
    }
}

#[test]
fn requests_and_bytes_a_second() {
    let config = ThrottleConfig { iops_total: Limit::of(100), ..ThrottleConfig::default() };
    let (group, clock) = group(config);
    let member = group.join();
    // What is due within a tenth of a second, and the one that makes it too much.
    assert_eq!(at_once(&member, Direction::Read, 1), 11);
    let mut begun = 0;
    for _ in 0..1000 {
        clock.advance(Duration::from_millis(10));
        begun += at_once(&member, Direction::Write, 1 << 20);
    }
    assert_eq!(begun, 1000);

    let config = ThrottleConfig { bps_write: Limit::of(10 << 20), ..ThrottleConfig::default() };
    group.set_config(config).unwrap();
    assert_eq!(at_once(&member, Direction::Read, 1 << 40), 1000);
    assert_eq!(at_once(&member, Direction::Write, 1 << 20), 2);
    clock.advance(Duration::from_secs(1));
    assert_eq!(at_once(&member, Direction::Write, 10 << 20), 1);
    clock.advance(Duration::from_millis(800));
    assert_eq!(at_once(&member, Direction::Write, 1), 0);
    clock.advance(Duration::from_millis(100));
    assert_eq!(at_once(&member, Direction::Write, 1), 1);
}

#[test]
fn large_requests_count_as_several() {
    let config = ThrottleConfig { iops_read: Limit::of(100), iops_size: 4096, ..ThrottleConfig::default() };
    let (group, _clock) = group(config);
    let member = group.join();
    assert_eq!(at_once(&member, Direction::Read, 5 * 4096), 3);
    assert_eq!(at_once(&member, Direction::Write, 5 * 4096), 1000);
}

#[test]
fn bursts_are_as_long_and_as_fast_as_allowed() {
    let limit = Limit { average: 10, max: 100, max_length: 5 };
    let (group, clock) = group(ThrottleConfig { iops_total: limit, ..ThrottleConfig::default() });
    let member = group.join();
    let second = |direction| {
        let mut begun = 0;
        for _ in 0..100 {
            begun += at_once(&member, direction, 1);
            clock.advance(Duration::from_millis(10));
        }
        begun
    };
    let seconds: Vec<usize> = (0..12).map(|_| second(Direction::Read)).collect();
    // 500 in bursts of 100 a second, and 10 a second meanwhile.
    assert!(seconds[..5].iter().all(|begun| (99..=111).contains(begun)), "{seconds:?}");
    assert!(seconds[7..].iter().all(|begun| (9..=11).contains(begun)), "{seconds:?}");
}

#[test]
fn members_take_turns_and_who_gives_up_stands_in_nobodys_way() {
    let (group, clock) = group(ThrottleConfig { iops_total: Limit::of(10), ..ThrottleConfig::default() });
    let members = [group.join(), group.join(), group.join()];
    while is_admitted(&mut request(&members[0], Direction::Read, 1)) {}
    // The first member asks for much, before the others ask for anything.
    let mut requests: Vec<(usize, Request)> = [0, 0, 0, 0, 1, 1, 2]
        .into_iter()
        .map(|member| (member, request(&members[member], Direction::Read, 1)))
        .collect();
    assert!(requests.iter_mut().all(|(_, request)| !is_admitted(request)));
    let mut order = Vec::new();
    // The one whose turn it is, and one that would be the last.
    drop(requests.remove(0));
    drop(requests.remove(2));
    for _ in 0..30 {
        clock.advance(Duration::from_millis(100));
        requests.retain_mut(|(member, request)| {
            let is_admitted = is_admitted(request);
            if is_admitted {
                order.push(*member);
            }
            !is_admitted
        });
    }
    assert_eq!(order, [1, 2, 0, 1, 0]);
    // Nobody waits now.
    drop(requests);
    assert_eq!(at_once(&members[0], Direction::Read, 1), 2);
}

#[test]
fn reads_and_writes_wait_each_for_their_own_limit() {
    let config = ThrottleConfig { iops_read: Limit::of(1), ..ThrottleConfig::default() };
    let (group, clock) = group(config);
    let member = group.join();
    assert_eq!(at_once(&member, Direction::Read, 1), 1);
    let mut read = request(&member, Direction::Read, 1);
    assert!(!is_admitted(&mut read));
    assert_eq!(at_once(&member, Direction::Write, 1), 1000);
    clock.advance(Duration::from_millis(900));
    assert!(is_admitted(&mut read));
}

#[test]
fn who_waits_notices_other_limits() {
    let (group, _clock) = group(ThrottleConfig { bps_total: Limit::of(1), ..ThrottleConfig::default() });
    let member = group.join();
    assert_eq!(at_once(&member, Direction::Read, u64::MAX), 1);
    let mut all = [request(&member, Direction::Read, 1), request(&member, Direction::Read, 1)];
    assert!(all.iter_mut().all(|request| !is_admitted(request)));
    group.set_config(ThrottleConfig::default()).unwrap();
    assert!(all.iter_mut().all(is_admitted));
    assert_eq!(group.config(), ThrottleConfig::default());
    let bad = ThrottleConfig { iops_size: 1, ..ThrottleConfig::default() };
    assert_eq!(group.set_config(bad), Err(ThrottleError::SizeWithoutLimit));
}
