//! Runs a target on mutated inputs for a given time.
//!
//! Inputs begin as the target's seeds and change by flips, insertions, deletions and splices. A panic, or an input that
//! takes longer than [`HANG`], ends the process with the input in hexadecimal on standard error, and status 101 or 102;
//! `TARGET hex DIGITS` runs that one input again.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long one input may take.
const HANG: Duration = Duration::from_secs(20);
/// Most bytes of an input.
const LONGEST: usize = 4096;

/// A source of random numbers (splitmix64).
pub struct Random(u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Runs `target` as the arguments of the process say: for some seconds, or on one input.
pub fn run(seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, digits] = &arguments[..]
        && word == "hex"
    {
        let byte = |place| u8::from_str_radix(&digits[place..place + 2], 16).expect("hexadecimal digits");
        target(&(0..digits.len() / 2).map(|place| byte(2 * place)).collect::<Vec<_>>());
        return;
    }
    let seconds = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(60);
    let current: Arc<Mutex<(Vec<u8>, Instant)>> = Arc::new(Mutex::new((Vec::new(), Instant::now())));
    let watched = current.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let (input, since) = &*watched.lock().unwrap();
            if since.elapsed() > HANG {
                eprintln!("this input takes too long: {}", hexadecimal(input));
                std::process::exit(102);
            }
        }
    });
    let reported = current.clone();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |information| {
        hook(information);
        if let Ok(current) = reported.lock() {
            eprintln!("this input panics: {}", hexadecimal(&current.0));
        }
        std::process::exit(101);
    }));
    let mut random = Random(Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()));
    let mut corpus = seeds.to_vec();
    let start = Instant::now();
    let mut runs = 0_u64;
    while start.elapsed() < Duration::from_secs(seconds) {
        let input = mutate(&corpus, &mut random);
        *current.lock().unwrap() = (input.clone(), Instant::now());
        target(&input);
        runs += 1;
        // Without knowledge of coverage, some descendants take their ancestors' places.
        if random.below(64) == 0 {
            let place = random.below(corpus.len());
            if place >= seeds.len() {
                corpus[place] = input;
            } else if corpus.len() < 4 * seeds.len() + 64 {
                corpus.push(input);
            }
        }
    }
    println!("{runs} inputs in {:.0} s, no failure", start.elapsed().as_secs_f64());
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(8) {
        let place = random.below(input.len() + 1);
        match random.below(6) {
            0 if place < input.len() => input[place] ^= 1 << random.below(8),
            1 if place < input.len() => input[place] = random.next() as u8,
            2 => input.insert(place, random.next() as u8),
            3 if place < input.len() => {
                input.drain(place..(place + 1 + random.below(8)).min(input.len()));
            }
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let piece = other[from..(from + random.below(32)).min(other.len())].to_vec();
                input.splice(place..place, piece);
            }
            _ => {
                let bytes = random.next().to_le_bytes();
                let length = 1 + random.below(8);
                input.splice(place..place, bytes[..length].iter().copied());
            }
        }
    }
    input.truncate(LONGEST);
    input
}
