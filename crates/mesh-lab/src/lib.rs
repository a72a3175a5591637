//! A mesh on one machine: network namespaces, pods, processes and origins of every protocol. The
//! demo and the namespace tests are made of it (docs/decisions/0002-mesh-lab.md).
//!
//! ```no_run
//! use mesh_lab::isolate::{Side, isolate};
//! use mesh_lab::process::{Process, ProcessSpec, Ready};
//! use mesh_lab::topology::{NodeSpec, PodSpec, Topology};
//! use std::process::ExitCode;
//! use std::time::Duration;
//!
//! fn main() -> anyhow::Result<ExitCode> {
//!     if let Side::Outside(code) = isolate(Vec::new())? {
//!         return Ok(code);
//!     }
//!     let node = NodeSpec { name: "node-1".into(), number: 1 };
//!     let pod = PodSpec { name: "web".into(), node: "node-1".into(), address: [10, 42, 1, 10].into() };
//!     let lab = Topology::create(&[node], &[pod])?;
//!     let server = ProcessSpec::new("web", "python3", "/tmp/web.log").args(["-m", "http.server"]);
//!     let mut server = Process::start(lab.pod("web")?, server)?;
//!     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//!     let ready = Ready::Tcp("127.0.0.1:8000".parse()?);
//!     runtime.block_on(server.ready(&ready, Duration::from_secs(5)))?;
//!     Ok(ExitCode::SUCCESS)
//! }
//! ```

mod command;

pub mod background;
pub mod capture;
pub mod client;
pub mod forward;
pub mod isolate;
pub mod origin;
pub mod packages;
pub mod place;
pub mod postgres;
pub mod probe;
pub mod process;
pub mod topology;
pub mod world;

pub use place::Place;
