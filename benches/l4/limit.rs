//! The floor: two proxies that seal and open records and do nothing else, if a program for it is
//! given. It listens and connects on the loopback, without the virtual wires of the others.

use crate::rows::{Metric, Metrics};
use crate::settings::Template;
use anyhow::{Context, Result, ensure};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Ports of the first proxy, the second and the sink.
const PORTS: [&str; 3] = ["27002", "27004", "27003"];
/// Size of one read, bytes: the best of those tried.
const READ_BYTES: &str = "524288";
/// How long one run may take.
const RUN_WITHIN: Duration = Duration::from_secs(60);
/// Speed that the size of a run is reckoned with, GB/s.
const SPEED: f64 = 1.0;

/// What is known of the floor's program.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    template: Template,
    /// The cipher and library that are fastest here.
    aead: String,
}

impl Limit {
    /// Tries which AES-256-GCM is the fastest here.
    ///
    /// # Errors
    /// When the program does not run as the yardstick does.
    pub(crate) fn new(command: &str) -> Result<Self> {
        let template = Template::new(command)?;
        let output = command_of(&template, &["aead"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let aead = fastest(&text).context("the floor's program names no AEAD")?;
        Ok(Self { template, aead })
    }

    /// The cipher and library, such as `ring-256`.
    pub(crate) fn aead(&self) -> &str {
        &self.aead
    }

    /// One run over about so much time.
    ///
    /// # Errors
    /// When the program fails or takes too long.
    pub(crate) fn sample(&self, seconds: Duration) -> Result<Metrics> {
        let [first, second, sink] = PORTS;
        let gigabytes = format!("{:.2}", (seconds.as_secs_f64() * SPEED).max(0.1));
        let parts: [&[&str]; 4] = [
            &["sink", sink],
            &["open", second, sink, READ_BYTES, &self.aead],
            &["seal", first, second, READ_BYTES, &self.aead],
            &["source", first, &gigabytes],
        ];
        let mut children = Vec::new();
        for part in parts {
            let mut command = command_of(&self.template, part);
            let child = command.stdout(Stdio::piped()).spawn();
            children.push(Running(child.context("cannot run the floor's program")?));
        }
        let deadline = Instant::now() + RUN_WITHIN;
        let outputs: Vec<String> = children
            .into_iter()
            .map(|child| child.output(deadline))
            .collect::<Result<_>>()?;
        let all = outputs.concat();
        let gbit = number_before(&all, " Gbit/s").context("no Gbit/s")?;
        let cpu: Vec<f64> = all
            .lines()
            .filter_map(|line| number_before(line, " CPU s/GB"))
            .collect();
        let [open, seal] = cpu.as_slice() else {
            anyhow::bail!("not two proxies' CPU in: {all}");
        };
        Ok(Metrics::from([
            (Metric::GbitS, gbit),
            (Metric::CpuSGb, f64::midpoint(*open, *seal)),
        ]))
    }
}

fn command_of(template: &Template, more: &[&str]) -> Command {
    let (program, arguments) = template.fill(&[]);
    let mut command = Command::new(program);
    command.args(arguments).args(more).stdin(Stdio::null());
    command
}

/// A part of the floor; dropping it kills it.
struct Running(Child);

impl Running {
    fn output(mut self, deadline: Instant) -> Result<String> {
        while self.0.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "the floor's program took too long"
            );
            thread::sleep(Duration::from_millis(5));
        }
        let mut text = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            std::io::Read::read_to_string(&mut stdout, &mut text)?;
        }
        Ok(text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, or ends now.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `ring-256: seal 6.90 GB/s, 0.145 s/GB`.
fn fastest(text: &str) -> Option<String> {
    let speeds = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let speed = number_before(rest, " GB/s")?;
        name.ends_with("-256").then(|| (name.to_owned(), speed))
    });
    let best = speeds.max_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(best.0)
}

fn number_before(text: &str, unit: &str) -> Option<f64> {
    let (before, _) = text.split_once(unit)?;
    before.rsplit([' ', '\n']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_yardsticks_words_are_read() {
        let text = "aws-lc-256: seal 3.80 GB/s, 0.262 s/GB\naws-lc-128: seal 9.00 GB/s, 0.1 s/GB\n\
                    ring-256: seal 6.90 GB/s, 0.145 s/GB\n";
        assert_eq!(fastest(text).as_deref(), Some("ring-256"));
        assert_eq!(fastest("nothing"), None);
        let line = "seal 524288 ring-256: 0.451 CPU s/GB, 400000 bytes a read\n";
        assert_eq!(number_before(line, " CPU s/GB"), Some(0.451));
        assert_eq!(
            number_before("a\nsource: 9.81 Gbit/s", " Gbit/s"),
            Some(9.81)
        );
    }
}
