//! The flags of `galerna-bench join`.

use crate::Result;
use crate::args::{EngineArgs, Fabric};
use crate::place::HereArgs;
use clap::Args;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct JoinArgs {
    /// The transport.
    #[arg(long, value_enum, default_value = "tcp")]
    pub(crate) fabric: Fabric,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) here: HereArgs,
    /// The number of founders, each in its own process with its own copy of the state.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=63))]
    pub(crate) members: u64,
    /// The number of joins. The process leaves again after each one.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) joins: u64,
    /// Bytes of the application's state that a joining process receives.
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    pub(crate) state: u64,
    /// Messages per second of each founder.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: u64,
    /// Bytes of each message.
    #[arg(long, default_value_t = 100)]
    pub(crate) size: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) engine: EngineArgs,
    /// Time limit of each join in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout_s: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl JoinArgs {
    /// The engine's configuration, checked.
    pub(crate) fn config(&self, founders: &[String]) -> Result<galerna::Config> {
        let mut config = self.engine.config(self.fabric, &self.here, founders, self.size)?;
        config.join_timeout_ms = 1000 * self.timeout_s;
        config.check()?;
        Ok(config)
    }
}
