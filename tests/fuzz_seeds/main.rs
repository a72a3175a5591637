//! The fuzz targets on stable: each body over its seeds and over some thousand mutations of them, the
//! same ones each time. What libFuzzer finds beyond this is in docs/fuzzing.md.

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Trial};
use mesh_model::Dice;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use strata_fuzz::{TARGETS, Target};

/// The longest input made, bytes.
const INPUT_BYTES_MAX: usize = 8192;
/// Mutations of one input, one upon the other, at most.
const STEPS_MAX: u64 = 6;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = TARGETS.iter().map(|target| {
        Trial::test(target.name, move || {
            run(target).map_err(|e| format!("{e:#}").into())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn run(target: &Target) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let seeds = seeds(&folder.join(target.name))?;
    for (path, bytes) in &seeds {
        give(target, bytes).with_context(|| path.display().to_string())?;
    }
    let mut dice = Dice::seeded(seed_of(target.name));
    for round in 0..target.rounds {
        let bytes = mutated(&seeds, &mut dice);
        give(target, &bytes).with_context(|| format!("mutation {round}"))?;
    }
    Ok(())
}

/// The files of a folder, in the order of their names.
fn seeds(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut seeds = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let bytes = fs::read(&path)?;
        seeds.push((path, bytes));
    }
    seeds.sort();
    if seeds.is_empty() {
        bail!("{} holds no seed", folder.display());
    }
    Ok(seeds)
}

/// FNV-1a: each target has chance of its own.
fn seed_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Runs a body; an input that it panics on is in the error, to be kept as a seed.
fn give(target: &Target, bytes: &[u8]) -> Result<()> {
    match panic::catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))) {
        Ok(()) => Ok(()),
        Err(_) => bail!("{} panics on b\"{}\"", target.name, bytes.escape_ascii()),
    }
}

fn mutated(seeds: &[(PathBuf, Vec<u8>)], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = pick(seeds, dice).to_vec();
    for _ in 0..=dice.below(STEPS_MAX) {
        step(&mut bytes, seeds, dice);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn pick<'a>(seeds: &'a [(PathBuf, Vec<u8>)], dice: &mut Dice) -> &'a [u8] {
    let index = below(seeds.len(), dice);
    seeds.get(index).map_or(&[], |(_, bytes)| bytes)
}

fn below(bound: usize, dice: &mut Dice) -> usize {
    usize::try_from(dice.below(bound as u64)).unwrap_or(0)
}

/// A range of at most 16 bytes within so many.
fn range(length: usize, dice: &mut Dice) -> std::ops::Range<usize> {
    let start = below(length + 1, dice);
    start..(start + below(16, dice)).min(length)
}

fn step(bytes: &mut Vec<u8>, seeds: &[(PathBuf, Vec<u8>)], dice: &mut Dice) {
    const TELLING: [u8; 12] = [
        0, 1, 2, 0x7f, 0x80, 0xff, b'/', b'.', b'%', b'*', b'\n', b'-',
    ];
    let at = below(bytes.len(), dice);
    match dice.below(8) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = TELLING[below(TELLING.len(), dice)];
            }
        }
        2 => bytes.insert(at, TELLING[below(TELLING.len(), dice)]),
        3 => {
            bytes.drain(range(bytes.len(), dice));
        }
        4 => {
            let again = bytes[range(bytes.len(), dice)].to_vec();
            bytes.splice(at..at, again);
        }
        5 => bytes.truncate(at),
        6 => {
            let other = pick(seeds, dice);
            let part = other[range(other.len(), dice)].to_vec();
            bytes.splice(at..at, part);
        }
        // The beginning of this one, the end of another.
        _ => {
            let other = pick(seeds, dice);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[below(other.len(), dice)..]);
        }
    }
}
