//! Rounds: every row of every contender, then again.

use crate::contender::Contender;
use crate::limit::Limit;
use crate::mesh::Mesh;
use crate::report::{Report, Sample, machine};
use crate::rows::Bench;
use crate::settings::Settings;
use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::Write;
use std::time::Instant;

/// Failed samples after which the run is given up: something is wrong with the set-up.
const FAILURES_MAX: usize = 20;

/// Takes all samples; what there is is written after each round.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    // Proxies inherit it: each idle connection of the memory row is up to two sockets of theirs.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the limit of open files")?;
    let out = std::path::absolute(&settings.out)?;
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;

    let begun = Instant::now();
    let mesh = Mesh::start(settings).context("the mesh did not start")?;
    let limit = match &settings.limit {
        Some(command) if mesh.contenders().contains(&Contender::Limit) => {
            Some(Limit::new(command).context("--limit")?)
        }
        _ => None,
    };
    let machine = machine::facts(settings, limit.as_ref().map(Limit::aead));
    println!("{}", machine.summary());
    println!("mesh: ready after {:.1} s", begun.elapsed().as_secs_f64());
    let mut report = Report::new(settings, machine);
    let mut bench = Bench {
        mesh,
        limit,
        seconds: settings.seconds,
        idle: settings.idle.into(),
    };
    for round in 1..=settings.rounds {
        self::round(round, settings, &mut bench, &mut report)?;
        report.finish_round();
        report.write(&out)?;
    }
    println!("\n{}", report.markdown());
    println!(
        "{:.0} s; {}/l4.json, l4.md, l4.svg",
        begun.elapsed().as_secs_f64(),
        out.display()
    );
    Ok(())
}

fn round(round: u16, settings: &Settings, bench: &mut Bench, report: &mut Report) -> Result<()> {
    let mut contenders = bench.mesh.contenders().to_vec();
    // Whoever is first finds the machine as the others left it: that should not always be the same.
    let turn = usize::from(round - 1) % contenders.len().max(1);
    contenders.rotate_left(turn);
    for row in settings.rows() {
        for contender in &contenders {
            if !row.applies_to(*contender) {
                continue;
            }
            print!(
                "round {round} {:<12}{:<9}",
                row.as_str(),
                contender.as_str()
            );
            std::io::stdout().flush()?;
            let outcome = row.sample(bench, *contender);
            if let Err(error) = &outcome {
                println!("FAILED: {error:#}\n{}", bench.mesh.logs());
            }
            let sample = Sample::new(round, row, *contender, outcome);
            println!("{}", sample.line());
            report.samples.push(sample);
            let failures = report.failures();
            ensure!(failures < FAILURES_MAX, "{failures} samples failed");
        }
        bench.mesh.forget_logs()?;
    }
    Ok(())
}
