//! The command line: what each subcommand takes, and what it means.

use crate::Result;
use crate::compare::CompareArgs;
use crate::devices::DevicesArgs;
use crate::durable::DurableArgs;
use crate::join::JoinArgs;
use crate::log::LogArgs;
use crate::place::{AcrossArgs, HereArgs, sample_addresses};
use crate::restart::RestartArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use galerna::FabricKind;
use serde::{Deserialize, Serialize};

/// Measures Galerna with one process per member, on this machine or, with --across, each on a machine of its own.
#[derive(Parser)]
#[command(version, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Throughput, latency and cost of a group: separate processes send and deliver messages.
    #[command(args_override_self = true)]
    Cluster(ClusterArgs),
    /// What the transport carries with no protocol at all: the same processes, fan-out and bytes.
    ///
    /// tcp: one nonblocking connection per pair with TCP_NODELAY; every sender writes messages*size bytes to each peer,
    /// 256 KiB per system call, from one constant buffer; every member reads into one 256 KiB buffer and looks at
    /// nothing; one thread per member, edge-triggered epoll. A member counts its own messages as delivered once they are
    /// written to all peers. No copy by the user, no order, no acknowledgement, no flow control but TCP's.
    ///
    /// shm: each sender has a ring (--ring-bytes) in shared memory, copies each message into it and shows them by one
    /// counter, in batches; a receiver reads the first word of each message, then stores one counter of what it has
    /// read, on which the sender's flow control rests. No order, no stability, no sleeping: who finds nothing to do
    /// yields.
    ///
    /// verbs: every sender writes its messages to all peers' memory, from one ring (--ring-bytes) to a copy of it at each, in
    /// requests of at most 1 MiB: lists with one doorbell each, one signalled request in a quarter of the send queue. A
    /// member counts its own messages as delivered once the devices have acknowledged them; that a sender is done is said over
    /// TCP. Members look for completions for 20 µs, then sleep until there are some. No order, no flow control.
    #[command(args_override_self = true)]
    Limit(LimitArgs),
    /// Round trips between two processes without a protocol: the floor of a latency.
    ///
    /// tcp: blocking sockets, or, with --spin, nonblocking ones that are tried again and again. shm: the bytes lie in
    /// shared memory, a byte on a unix socket wakes the other; with --spin one word in shared memory is looked at again
    /// and again. verbs: an RDMA write each way, and always looking again and again, as perftest's ib_write_lat does (which
    /// reports half of a round trip).
    #[command(alias = "latency-limit", args_override_self = true)]
    Pingpong(PingPongArgs),
    /// What a group costs that does nothing, driven by the library's thread: CPU time and memory.
    #[command(args_override_self = true)]
    Idle(IdleArgs),
    /// How long a group pauses when a member is killed, as its survivors see it.
    ///
    /// Every member sends safe messages, and one is killed with SIGKILL; for each kill the whole group is started anew.
    /// Figures are of each survivor: detection, from the kill to its first notice of it; installation, from there to its
    /// next view; gap, the longest pause between two deliveries from the kill to the first message of the next view; next
    /// delivery, from the notice; back, from the kill to the first delivery in the next view.
    #[command(args_override_self = true)]
    Failover(FailoverArgs),
    /// What it costs a group under load that a process with a large state joins it.
    ///
    /// Every founder sends safe messages at --rate, and holds --state bytes that a process which joins takes from one of
    /// them. It does so --joins times, each time a fresh process, which leaves again. Figures: how long the call of join
    /// took, until the process had everything; and of each founder the longest pause between two deliveries of its own
    /// messages and the longest wait of a call of send, during the join and in as long a time before it.
    #[command(args_override_self = true)]
    Join(JoinArgs),
    /// Runs a cluster and something else in turn (A B A B ...) and tells the ratio A/B pair by pair.
    #[command(args_override_self = true)]
    Compare(CompareArgs),
    /// What the persistent log costs: records appended to it, and the same bytes and syncs without a log, in turn.
    ///
    /// Raw is one file whose space is taken before, into which one thread writes the payload (pwrite, of at most 1 MiB) out
    /// of one buffer, with a sync (fdatasync) at equal distances, as many as the log needed. The log writes checksums and headers
    /// as well, and makes its files meanwhile. Figures: the ratio of the rates, log/raw, pair by pair; how many records shared a
    /// sync; and how long one durable append takes, as a ratio to one raw write and its sync.
    #[command(args_override_self = true)]
    Log(LogArgs),
    #[command(args_override_self = true)]
    Durable(DurableArgs),
    #[command(args_override_self = true)]
    Restart(RestartArgs),
    /// Lists the RDMA devices of this machine, what would be used of them, and in words why something cannot be.
    ///
    /// Without a device, or without libibverbs, it says what is missing. The status is 0 if something can be used, and 1 if not.
    #[command(args_override_self = true)]
    Devices(DevicesArgs),
    #[command(hide = true)]
    Member,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fabric {
    /// Shared memory of one host.
    Shm,
    /// TCP.
    Tcp,
    /// RDMA, on RoCE or InfiniBand: see `galerna-bench devices`.
    Verbs,
}

impl From<Fabric> for FabricKind {
    fn from(fabric: Fabric) -> FabricKind {
        match fabric {
            Fabric::Shm => FabricKind::Shm,
            Fabric::Tcp => FabricKind::Tcp,
            Fabric::Verbs => FabricKind::Verbs,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Senders {
    /// Every member.
    All,
    /// The first half, rounded up.
    Half,
    /// The first.
    One,
}

impl Senders {
    /// How many of `members` send: the first ones.
    pub(crate) fn count(self, members: usize) -> usize {
        match self {
            Senders::All => members,
            Senders::Half => members.div_ceil(2),
            Senders::One => 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Each sender's order, at once.
    Fifo,
    /// One total order.
    Ordered,
    /// One total order, once every member has received the message.
    Safe,
}

impl From<Mode> for galerna::Mode {
    fn from(mode: Mode) -> galerna::Mode {
        match mode {
            Mode::Fifo => galerna::Mode::Fifo,
            Mode::Ordered => galerna::Mode::Ordered,
            Mode::Safe => galerna::Mode::Safe,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Drive {
    /// The library's thread delivers, an application thread sends with calls that wait for ring space.
    Thread,
    /// One application thread sends and polls in turn, and waits on the group's descriptor when idle.
    Dispatch,
}

/// The name that a value has on the command line.
pub(crate) fn name<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// What every measurement of the engine takes.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct EngineArgs {
    /// Bytes of each sender's ring; a power of two. The engine's default if not given.
    #[arg(long)]
    pub(crate) ring_bytes: Option<usize>,
    /// How long an idle member looks again before it sleeps, in µs. The engine's default if not given.
    #[arg(long)]
    pub(crate) spin_us: Option<u64>,
}

impl EngineArgs {
    /// A configuration of members 1, 2, ... at `addresses`, for messages of `size` bytes; it is not checked.
    pub(crate) fn config(
        &self,
        fabric: Fabric,
        here: &HereArgs,
        addresses: &[String],
        size: usize,
    ) -> Result<galerna::Config> {
        let members = addresses
            .iter()
            .zip(1..)
            .map(|(address, id)| galerna::Member { id: galerna::MemberId(id), address: address.clone() });
        let mut config = galerna::Config::new("galerna-bench", fabric.into(), members.collect());
        config.ring_bytes = self.ring_bytes.unwrap_or(config.ring_bytes);
        config.spin_us = self.spin_us.unwrap_or(config.spin_us);
        config.verbs = here.verbs(fabric)?;
        if size > config.max_message() {
            config.max_message_bytes = Some(size);
        }
        Ok(config)
    }
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct ClusterArgs {
    /// The transport.
    #[arg(long, value_enum)]
    pub(crate) fabric: Fabric,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) here: HereArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) across: AcrossArgs,
    /// Members, each a process.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) members: u64,
    /// Who of them sends.
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) senders: Senders,
    /// Bytes of each message.
    #[arg(long, default_value_t = 100)]
    pub(crate) size: usize,
    /// Messages of each sender, after the warm-up.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) messages: u64,
    /// A sender sends only while fewer of its own messages are not delivered to itself; without it, as many as the ring takes.
    #[arg(long, conflicts_with = "rate", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) outstanding: Option<u64>,
    /// How a message is delivered.
    #[arg(long, value_enum, default_value = "safe")]
    pub(crate) mode: Mode,
    /// Messages per second of each sender, on a fixed schedule (an open loop); without it, as many as the ring takes.
    /// Latency is then measured from the scheduled time to the delivery at every member. Needs --size 16 or more.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// Never sleep: for members that have a core of their own.
    #[arg(long)]
    pub(crate) busy_poll: bool,
    /// Who calls the engine.
    #[arg(long, value_enum, default_value = "dispatch")]
    pub(crate) drive: Drive,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) engine: EngineArgs,
    /// With --drive dispatch: the most messages sent between two polls; without it, as many as the ring takes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) burst: Option<u64>,
    /// Messages of each sender before the measurement; a tenth of --messages if not given.
    #[arg(long)]
    pub(crate) warmup: Option<u64>,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout_s: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The smallest message that can carry the two times of a schedule.
pub(crate) const STAMPS_LEN: usize = 16;

impl ClusterArgs {
    pub(crate) fn members(&self) -> usize {
        self.across.count(self.members) as usize
    }

    pub(crate) fn warmup(&self) -> u64 {
        self.warmup.unwrap_or((self.messages / 10).max(1))
    }

    /// The engine's configuration; it is checked.
    pub(crate) fn config(&self, addresses: &[String]) -> Result<galerna::Config> {
        let mut config = self.engine.config(self.fabric, &self.here, addresses, self.size)?;
        config.busy_poll = self.busy_poll;
        let most = config.ring_bytes / 2 - 8;
        if self.size > most {
            return Err(format!(
                "--size {} is over the limit of {most} bytes that a ring of {} bytes carries: raise --ring-bytes",
                self.size, config.ring_bytes
            )
            .into());
        }
        config.check()?;
        Ok(config)
    }

    /// Refuses what cannot be measured.
    pub(crate) fn check(&self) -> Result<()> {
        if self.rate.is_some() && self.size < STAMPS_LEN {
            return Err(format!(
                "--rate needs messages that carry their times: --size {STAMPS_LEN} or more, not {}",
                self.size
            )
            .into());
        }
        // Any addresses will do for the other checks.
        self.config(&sample_addresses(self.fabric, self.members())).map(drop)
    }
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct LimitArgs {
    /// The transport.
    #[arg(long, value_enum)]
    pub(crate) fabric: Fabric,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) here: HereArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) across: AcrossArgs,
    /// Members, each a process.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) members: u64,
    /// Who of them sends.
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) senders: Senders,
    /// Bytes of each message.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) size: u64,
    /// Messages of each sender, after the warm-up.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) messages: u64,
    /// shm, verbs: bytes of each sender's ring.
    #[arg(long, default_value_t = 4 << 20)]
    pub(crate) ring_bytes: usize,
    /// Messages of each sender before the measurement; a tenth of --messages if not given.
    #[arg(long)]
    pub(crate) warmup: Option<u64>,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout_s: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl LimitArgs {
    pub(crate) fn members(&self) -> usize {
        self.across.count(self.members) as usize
    }

    pub(crate) fn warmup(&self) -> u64 {
        self.warmup.unwrap_or((self.messages / 10).max(1))
    }
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct PingPongArgs {
    /// The transport.
    #[arg(long, value_enum)]
    pub(crate) fabric: Fabric,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) here: HereArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) across: AcrossArgs,
    /// Bytes of each ping and each pong.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) size: u64,
    /// Round trips, after the warm-up.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) messages: u64,
    /// Round trips per second, on a fixed schedule; without it, one after the other.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// Look again and again instead of sleeping in the kernel; on verbs that is so in any case.
    #[arg(long)]
    pub(crate) spin: bool,
    /// Round trips before the measurement; a tenth of --messages if not given.
    #[arg(long)]
    pub(crate) warmup: Option<u64>,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout_s: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl PingPongArgs {
    pub(crate) fn warmup(&self) -> u64 {
        self.warmup.unwrap_or((self.messages / 10).max(1))
    }
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct IdleArgs {
    /// The transport.
    #[arg(long, value_enum)]
    pub(crate) fabric: Fabric,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) here: HereArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) across: AcrossArgs,
    /// Members, each a process.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) members: u64,
    /// How long nothing is done.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) engine: EngineArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl IdleArgs {
    pub(crate) fn members(&self) -> usize {
        self.across.count(self.members) as usize
    }
}

/// Whom a failover kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Victim {
    /// The last member.
    Follower,
    /// The first member, which leads view changes.
    Leader,
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct FailoverArgs {
    /// The transport.
    #[arg(long, value_enum)]
    pub(crate) fabric: Fabric,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) here: HereArgs,
    /// Members, each a process. A group of two does not survive the death of one.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=64))]
    pub(crate) members: u64,
    /// Who is killed.
    #[arg(long, value_enum, default_value = "follower")]
    pub(crate) victim: Victim,
    /// How often; the group is started anew for each.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) kills: u64,
    /// Bytes of each message.
    #[arg(long, default_value_t = 100)]
    pub(crate) size: usize,
    /// Messages per second of each member; without it, as many as the ring takes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// How long the members send before one is killed, in ms; up to half as much again is added at random.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub(crate) warmup_ms: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) engine: EngineArgs,
    /// Give a kill up after so many seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout_s: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl FailoverArgs {
    /// The rank of whom is killed.
    pub(crate) fn victim(&self) -> usize {
        match self.victim {
            Victim::Leader => 0,
            Victim::Follower => self.members as usize - 1,
        }
    }

    /// The engine's configuration; it is checked.
    pub(crate) fn config(&self, addresses: &[String]) -> Result<galerna::Config> {
        let config = self.engine.config(self.fabric, &self.here, addresses, self.size)?;
        config.check()?;
        Ok(config)
    }
}
