//! Every decoder over mutated good inputs, for a bounded time in each run of the suite. The same bodies as under libFuzzer
//! (`tests/fuzz`): `cargo +nightly fuzz run <target>` there, if you have more time.
//!
//! `CHRONIK_FUZZ_MS` sets the milliseconds for each target, `CHRONIK_SEED` the seed.

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use chronik_tests::fuzz_bodies::TARGETS;
use chronik_tests::fuzz_inputs::inputs;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Longer inputs are not made: the decoders see what they need in far less.
const INPUT_BYTES_MAX: usize = 128 << 10;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A few random changes of the kinds that break decoders.
fn mutate(input: &mut Vec<u8>, other: &[u8], rng: &mut SmallRng) {
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..8) {
            0 => input.truncate(at),
            1 => input.insert(at, rng.random()),
            2 => {
                let end = (at + rng.random_range(0..64)).min(input.len());
                input[at..end].fill([0, 0xff, 0x7f, 0x80][rng.random_range(0..4)]);
            }
            3 => {
                let from = rng.random_range(0..=other.len());
                let piece = &other[from..(from + rng.random_range(0..64)).min(other.len())];
                input.splice(at..at, piece.iter().copied());
            }
            4 => {
                let end = (at + 4).min(input.len());
                let number = [0, 1, -1, i32::MAX, i32::MIN, 1 << 24][rng.random_range(0..6)];
                input[at..end].copy_from_slice(&number.to_be_bytes()[..end - at]);
            }
            _ if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            _ => {}
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

#[test]
#[expect(clippy::print_stderr, reason = "how much was tried")]
fn no_decoder_panics() {
    let seed = number("CHRONIK_SEED", rand::random());
    let time = Duration::from_millis(number("CHRONIK_FUZZ_MS", 1_000));
    let mut rng = SmallRng::seed_from_u64(seed);
    for (name, body) in TARGETS {
        let good = inputs(name);
        good.iter().for_each(|input| body(input));
        let (begun, mut runs) = (Instant::now(), 0);
        while begun.elapsed() < time {
            runs += 1;
            let mut input = good[rng.random_range(0..good.len())].clone();
            let other = &good[rng.random_range(0..good.len())];
            if runs % 50 == 0 {
                input = vec![0; rng.random_range(0..400)];
                rng.fill_bytes(&mut input);
            }
            mutate(&mut input, other, &mut rng);
            if catch_unwind(|| body(&input)).is_err() {
                let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
                panic!("target {name}, seed {seed}: {hex}");
            }
        }
        assert!(runs > 20, "{name} is too slow to be of use: {runs} inputs");
        eprintln!("{name}: {runs} inputs");
    }
}
