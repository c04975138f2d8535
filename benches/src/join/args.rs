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
    /// Founders, each a process that holds a state of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=63))]
    pub(crate) members: u64,
    /// How often a process joins, and leaves again.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) joins: u64,
    /// Bytes of the application's state, which a process that joins takes.
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
    /// Give a join up after so many seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout_s: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl JoinArgs {
    /// The engine's configuration; it is checked.
    pub(crate) fn config(&self, founders: &[String]) -> Result<galerna::Config> {
        let mut config = self.engine.config(self.fabric, &self.here, founders, self.size)?;
        config.join_timeout_ms = 1000 * self.timeout_s;
        config.check()?;
        Ok(config)
    }
}
