//! Which library seals and opens: tried once a process, said in the log.

use super::{Cipher, Key};
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long the trial may take; a library that is not tried for lack of time loses.
const TRIAL_TIME_MAX: Duration = Duration::from_millis(1);
/// Most rounds of the trial, each one record of both libraries. The fastest counts, so that a
/// round in which another process had the core does not.
const TRIAL_ROUNDS_MAX: u32 = 48;
/// A full record of TLS.
const TRIAL_BYTES: usize = 16 * 1024;

/// A library that implements AES-GCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AeadLibrary {
    /// `ring`: fast where there are VAES and AVX2.
    Ring,
    /// `aws-lc-rs`: fast where there is AVX-512.
    AwsLc,
}

impl fmt::Display for AeadLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring",
            Self::AwsLc => "aws-lc",
        })
    }
}

/// The setting `TLS_AEAD_LIBRARY`: a library, or to let a trial of at most a millisecond decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AeadChoice {
    /// Whichever this machine does faster.
    #[default]
    Auto,
    /// This one.
    Fixed(AeadLibrary),
}

impl FromStr for AeadChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "ring" => Ok(Self::Fixed(AeadLibrary::Ring)),
            "aws-lc" => Ok(Self::Fixed(AeadLibrary::AwsLc)),
            other => Err(format!("{other:?} is none of auto, ring, aws-lc")),
        }
    }
}

impl AeadChoice {
    /// The library to use; says which and why in the log. The trial is made once a process.
    pub(crate) fn decide(self) -> AeadLibrary {
        match self {
            Self::Fixed(library) => {
                tracing::info!(aead = %library, why = "TLS_AEAD_LIBRARY", "AES-GCM library chosen");
                library
            }
            Self::Auto => {
                static TRIED: OnceLock<AeadLibrary> = OnceLock::new();
                *TRIED.get_or_init(|| {
                    let trial = Trial::run();
                    let library = trial.winner();
                    tracing::info!(
                        aead = %library,
                        why = "the faster in a trial at start",
                        ring_ns = trial.ring.as_nanos(),
                        aws_lc_ns = trial.aws_lc.as_nanos(),
                        record_bytes = TRIAL_BYTES,
                        "AES-GCM library chosen"
                    );
                    library
                })
            }
        }
    }
}

/// The shortest time each library took to seal one record; `MAX` if it was not tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    pub(super) ring: Duration,
    pub(super) aws_lc: Duration,
}

impl Trial {
    pub(super) fn run() -> Self {
        let mut trial = Self {
            ring: Duration::MAX,
            aws_lc: Duration::MAX,
        };
        // The key and the nonces seal nothing that is ever sent.
        let keys = [AeadLibrary::Ring, AeadLibrary::AwsLc]
            .map(|library| Key::new(library, Cipher::Aes256, &[7; 32]));
        let [Ok(ring), Ok(aws_lc)] = keys else {
            return trial;
        };
        let mut record = vec![0; TRIAL_BYTES];
        let start = Instant::now();
        for _ in 0..TRIAL_ROUNDS_MAX {
            for (key, best) in [(&ring, &mut trial.ring), (&aws_lc, &mut trial.aws_lc)] {
                let before = Instant::now();
                if key.seal([0; 12], &[], &mut record).is_ok() {
                    *best = before.elapsed().min(*best);
                }
            }
            if start.elapsed() >= TRIAL_TIME_MAX {
                break;
            }
        }
        trial
    }

    /// aws-lc when the two are alike: it is the library of everything else.
    pub(super) fn winner(self) -> AeadLibrary {
        if self.ring < self.aws_lc {
            AeadLibrary::Ring
        } else {
            AeadLibrary::AwsLc
        }
    }
}
