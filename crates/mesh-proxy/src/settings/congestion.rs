//! Congestion control of proxied connections.

use super::Mistakes;
use mesh_net::{Algorithm, Congestion, check_congestion};

/// Flags for the congestion control of proxied connections: `auto`, `kernel`, or a name of
/// `net.ipv4.tcp_available_congestion_control`.
#[derive(Debug, Clone, clap::Args)]
pub struct CongestionFlags {
    /// Congestion control between the proxy and applications of its machine.
    #[arg(long, env = "CONGESTION_CONTROL_LOCAL", default_value = "auto")]
    pub congestion_control_local: String,
    /// Congestion control of tunnels.
    #[arg(long, env = "CONGESTION_CONTROL_TUNNEL", default_value = "auto")]
    pub congestion_control_tunnel: String,
}

impl CongestionFlags {
    pub(super) fn check(&self, mistakes: &mut Mistakes) -> Congestion {
        let mut read = |variable: &str, name: &str| match name {
            "auto" => Algorithm::Auto,
            "kernel" => Algorithm::Kernel,
            name => {
                let known = check_congestion(name).map_err(|e| format!("'{name}': {e}"));
                mistakes.value(variable, known);
                Algorithm::Named(name.to_owned())
            }
        };
        Congestion {
            machine: read("CONGESTION_CONTROL_LOCAL", &self.congestion_control_local),
            tunnel: read("CONGESTION_CONTROL_TUNNEL", &self.congestion_control_tunnel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        congestion: CongestionFlags,
    }

    fn check(arguments: &[&str]) -> Result<Congestion, String> {
        let flags = Flags::try_parse_from([&["proxy"], arguments].concat()).unwrap();
        let mut mistakes = Mistakes::default();
        let congestion = flags.congestion.check(&mut mistakes);
        match mistakes.is_empty() {
            true => Ok(congestion),
            false => Err(mistakes.into_error().to_string()),
        }
    }

    #[test]
    fn each_is_set_by_name_or_left_to_the_kernel_and_an_unknown_one_is_a_mistake() {
        assert_eq!(check(&[]).unwrap(), Congestion::default());
        let given = check(&[
            "--congestion-control-local=kernel",
            "--congestion-control-tunnel=reno",
        ]);
        let expected = Congestion {
            machine: Algorithm::Kernel,
            tunnel: Algorithm::Named("reno".to_owned()),
        };
        assert_eq!(given.unwrap(), expected);
        let wrong = check(&["--congestion-control-tunnel=renowned"]).unwrap_err();
        let start = "CONGESTION_CONTROL_TUNNEL: 'renowned': ";
        assert!(wrong.starts_with(start), "{wrong}");
    }
}
