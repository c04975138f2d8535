//! The command line: the subcommands and their flags.

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

/// Measures Galerna with one process per member, on this machine or, with --across, on one machine per member.
#[derive(Parser)]
#[command(version, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Measures throughput, latency and cost of a group with one process per member.
    #[command(args_override_self = true)]
    Cluster(ClusterArgs),
    /// Measures the limit of the transport without any protocol: the same processes, fan-out and bytes.
    ///
    /// tcp: one nonblocking connection per pair, with TCP_NODELAY. Every sender writes messages*size bytes to each
    /// peer, 256 KiB per system call, from one constant buffer. Every member reads into one 256 KiB buffer and ignores
    /// the content. Each member has one thread with edge-triggered epoll. A member counts its own messages as delivered
    /// once they are written to all peers. There is no copy in user space, no order, no acknowledgement, and no flow
    /// control except TCP's.
    ///
    /// shm: each sender has a ring (--ring-bytes) in shared memory. It copies each message into the ring and publishes
    /// the messages in batches by one counter. A receiver reads the first word of each message, then stores a counter
    /// of the messages that it has read. The sender's flow control uses these counters. There is no order, no stability
    /// and no sleeping: an idle process yields.
    ///
    /// verbs: every sender writes its messages from one ring (--ring-bytes) to a copy of the ring at each peer, in
    /// requests of at most 1 MiB. Requests are posted in lists with one doorbell each. One request per quarter of the
    /// send queue is signalled. A member counts its own messages as delivered once the devices have acknowledged them.
    /// A sender announces its end over TCP. Members poll for completions for 20 µs, then sleep until there are some.
    /// There is no order and no flow control.
    #[command(args_override_self = true)]
    Limit(LimitArgs),
    /// Measures round trips between two processes without a protocol: the lower bound of a latency.
    ///
    /// tcp: blocking sockets or, with --spin, nonblocking sockets that are polled. shm: the bytes are in shared memory,
    /// and a byte on a unix socket wakes the other process; with --spin, both poll one word in shared memory. verbs:
    /// one RDMA write in each direction, always with polling, as in perftest's ib_write_lat (which reports half of a
    /// round trip).
    #[command(alias = "latency-limit", args_override_self = true)]
    Pingpong(PingPongArgs),
    /// Measures the CPU time and memory of a group that does nothing. The library's thread drives it.
    #[command(args_override_self = true)]
    Idle(IdleArgs),
    /// Measures how long a group pauses when a member is killed, as seen by the survivors.
    ///
    /// Every member sends safe messages, and one member is killed with SIGKILL. The whole group is restarted for each
    /// kill. Each figure is taken at every survivor. Detection: from the kill to the survivor's first suspicion.
    /// Installation: from there to its next view. Gap: the longest pause between two deliveries, from the kill to the
    /// first message of the next view. Next delivery: from the suspicion to the next delivery. Back: from the kill to
    /// the first delivery in the next view.
    #[command(args_override_self = true)]
    Failover(FailoverArgs),
    /// Measures the cost for a group under load when a process with a large state joins.
    ///
    /// Every founder sends safe messages at --rate and holds --state bytes. A joining process receives this state from
    /// one of them. This is repeated --joins times, each time with a new process, which leaves again. Figures: the
    /// duration of the join call, until the process has everything; and for each founder the longest pause between two
    /// deliveries of its own messages and the longest wait of a send call, during the join and in a period of the same
    /// length before it.
    #[command(args_override_self = true)]
    Join(JoinArgs),
    /// Runs a cluster and another benchmark in turn (A B A B ...) and reports the ratio A/B pair by pair.
    #[command(args_override_self = true)]
    Compare(CompareArgs),
    /// Measures the cost of the persistent log: appended records against the same bytes and syncs without a log, in
    /// turn.
    ///
    /// Raw is one file with preallocated space. One thread writes the payload to it (pwrite, at most 1 MiB) from one
    /// buffer, with as many syncs (fdatasync) as the log needed, at equal distances. The log also writes checksums and
    /// headers, and creates its files during the measurement. Figures: the ratio of the rates, log/raw, pair by pair;
    /// the number of records per sync; and the duration of one durable append, as a ratio to one raw write with its
    /// sync.
    #[command(args_override_self = true)]
    Log(LogArgs),
    #[command(args_override_self = true)]
    Durable(DurableArgs),
    #[command(args_override_self = true)]
    Restart(RestartArgs),
    /// Lists the RDMA devices of this machine, the choice that would be made, and the reasons why others are unusable.
    ///
    /// Without a device or without libibverbs, it reports the missing part. The exit status is 0 if a device is usable,
    /// otherwise 1.
    #[command(args_override_self = true)]
    Devices(DevicesArgs),
    #[command(hide = true)]
    Member,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fabric {
    /// Shared memory within one host.
    Shm,
    /// TCP.
    Tcp,
    /// RDMA over RoCE or InfiniBand: see `galerna-bench devices`.
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
    /// Only the first.
    One,
}

impl Senders {
    /// The number of senders among `members`. The first members send.
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
    /// In each sender's order, at once.
    Fifo,
    /// In one total order.
    Ordered,
    /// In one total order, once every member has received the message.
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
    /// The library's thread delivers, and an application thread sends with calls that wait for ring space.
    Thread,
    /// One application thread sends and polls in turn, and waits on the group's descriptor when idle.
    Dispatch,
}

/// The name of a value on the command line.
pub(crate) fn name<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// The transport, and the machines on which the processes run.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct TransportArgs {
    /// The transport.
    #[arg(long, value_enum)]
    pub(crate) fabric: Fabric,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) here: HereArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) across: AcrossArgs,
}

impl TransportArgs {
    /// See [`HereArgs::verbs`].
    pub(crate) fn verbs(&self) -> Result<galerna::Verbs> {
        self.here.verbs(self.fabric)
    }

    /// See [`HereArgs::flags`].
    pub(crate) fn flags(&self) -> Vec<String> {
        self.here.flags(self.fabric)
    }
}

/// Flags of a run that sends a given number of messages.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct RunArgs {
    /// Messages of each sender, or round trips, before the measurement. Default: a tenth of --messages.
    #[arg(long)]
    pub(crate) warmup: Option<u64>,
    /// Time limit of the run in seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout_s: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl RunArgs {
    /// The messages before the `messages` of the measurement.
    pub(crate) fn warmup(&self, messages: u64) -> u64 {
        self.warmup.unwrap_or((messages / 10).max(1))
    }
}

/// Flags that all measurements of the engine share.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct EngineArgs {
    /// Bytes of each sender's ring, a power of two. Default: the engine's default.
    #[arg(long)]
    pub(crate) ring_bytes: Option<usize>,
    /// How long an idle member polls before it sleeps, in µs. Default: the engine's default.
    #[arg(long)]
    pub(crate) spin_us: Option<u64>,
}

impl EngineArgs {
    /// The unchecked configuration of members 1, 2, ... at `addresses`, for messages of `size` bytes.
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
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) transport: TransportArgs,
    /// The number of members, each in its own process.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) members: u64,
    /// The members that send.
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) senders: Senders,
    /// Bytes of each message.
    #[arg(long, default_value_t = 100)]
    pub(crate) size: usize,
    /// Messages of each sender, after the warm-up.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) messages: u64,
    /// Most messages of a sender that are sent but not yet delivered to itself. Default: limited by the ring only.
    #[arg(long, conflicts_with = "rate", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) outstanding: Option<u64>,
    /// The delivery mode of the messages.
    #[arg(long, value_enum, default_value = "safe")]
    pub(crate) mode: Mode,
    /// Messages per second of each sender, on a fixed schedule (an open loop). Default: as many as the ring takes.
    /// Latency is then measured from the scheduled time to the delivery at every member. Needs --size 16 or more.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// Poll without ever sleeping. For members that have a core of their own.
    #[arg(long)]
    pub(crate) busy_poll: bool,
    /// The thread that drives the engine.
    #[arg(long, value_enum, default_value = "dispatch")]
    pub(crate) drive: Drive,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) engine: EngineArgs,
    /// With --drive dispatch: the most messages sent between two polls. Default: as many as the ring takes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) burst: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) run: RunArgs,
}

/// The smallest message, in bytes, that can carry the two timestamps of a schedule.
pub(crate) const STAMPS_LEN: usize = 16;

impl ClusterArgs {
    pub(crate) fn members(&self) -> usize {
        self.transport.across.count(self.members) as usize
    }

    /// The engine's configuration, checked.
    pub(crate) fn config(&self, addresses: &[String]) -> Result<galerna::Config> {
        let mut config = self.engine.config(self.transport.fabric, &self.transport.here, addresses, self.size)?;
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

    /// Refuses flags that cannot be measured.
    pub(crate) fn check(&self) -> Result<()> {
        if self.rate.is_some() && self.size < STAMPS_LEN {
            return Err(format!(
                "--rate needs messages that carry their times: --size {STAMPS_LEN} or more, not {}",
                self.size
            )
            .into());
        }
        // The addresses do not matter for the other checks.
        self.config(&sample_addresses(self.transport.fabric, self.members())).map(drop)
    }
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct LimitArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) transport: TransportArgs,
    /// The number of members, each in its own process.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) members: u64,
    /// The members that send.
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
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) run: RunArgs,
}

impl LimitArgs {
    pub(crate) fn members(&self) -> usize {
        self.transport.across.count(self.members) as usize
    }
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct PingPongArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) transport: TransportArgs,
    /// Bytes of each ping and each pong.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) size: u64,
    /// Round trips, after the warm-up.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) messages: u64,
    /// Round trips per second, on a fixed schedule. Default: one after the other.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// Poll instead of sleeping in the kernel. On verbs this is always the case.
    #[arg(long)]
    pub(crate) spin: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) transport: TransportArgs,
    /// The number of members, each in its own process.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) members: u64,
    /// The duration of the idle period in seconds.
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
        self.transport.across.count(self.members) as usize
    }
}

/// The member that a failover kills.
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
    /// The number of members, each in its own process. A group of two does not survive the death of one.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=64))]
    pub(crate) members: u64,
    /// The member that is killed.
    #[arg(long, value_enum, default_value = "follower")]
    pub(crate) victim: Victim,
    /// The number of kills. The group is restarted for each.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) kills: u64,
    /// Bytes of each message.
    #[arg(long, default_value_t = 100)]
    pub(crate) size: usize,
    /// Messages per second of each member. Default: as many as the ring takes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// How long the members send before one is killed, in ms. A random extra of up to half of this is added.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub(crate) warmup_ms: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) engine: EngineArgs,
    /// Time limit of each kill in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout_s: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl FailoverArgs {
    /// The rank of the member that is killed.
    pub(crate) fn victim(&self) -> usize {
        match self.victim {
            Victim::Leader => 0,
            Victim::Follower => self.members as usize - 1,
        }
    }

    /// The engine's configuration, checked.
    pub(crate) fn config(&self, addresses: &[String]) -> Result<galerna::Config> {
        let config = self.engine.config(self.fabric, &self.here, addresses, self.size)?;
        config.check()?;
        Ok(config)
    }
}
