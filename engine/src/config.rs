//! The configuration: one TOML file. It is the same for every member, except for the keys `member` and `listen`.
//!
//! The repository's `README.md` lists every key with its default and unit. An unknown key is an error.

pub(crate) mod address;
mod explain;
mod log;
mod verbs;

pub use explain::plain as plain_type;
pub use log::LogConfig;
pub(crate) use log::is_directory_name;
pub use verbs::Verbs;

use crate::error::Error;
use crate::types::MemberId;
use address::ListenAt;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

/// The transport that carries the group's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FabricKind {
    /// RDMA if every founder has a usable device, otherwise TCP. Addresses are `HOST:PORT` (`[IPV6]:PORT`).
    Auto,
    /// RDMA over RoCE or InfiniBand. A process without a usable device is refused.
    ///
    /// Addresses are `HOST:PORT` (`[IPV6]:PORT`): members use them to set up the RDMA connections.
    Verbs,
    /// One TCP connection per pair of members. Addresses are `HOST:PORT` (`[IPV6]:PORT`).
    Tcp,
    /// Shared memory within one host. Addresses are `unix:PATH`, a socket over which members connect.
    Shm,
}

impl fmt::Display for FabricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FabricKind::Auto => "auto",
            FabricKind::Verbs => "verbs",
            FabricKind::Tcp => "tcp",
            FabricKind::Shm => "shm",
        })
    }
}

/// Whether a process founds a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// The process founds the group if it is listed in `members` and no group of this name exists.
    ///
    /// All listed members must take part, and every contact must answer. None of these processes may know of a group of
    /// this name that runs now or ran before.
    #[default]
    IfNew,
    /// The process never founds a group: it joins the running group, or restarts from its log.
    Never,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Found::IfNew => "if_new",
            Found::Never => "never",
        })
    }
}

/// One configured member.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The member's id.
    pub id: MemberId,
    /// The address at which the other members reach it: `HOST:PORT`, or `unix:PATH` for shm.
    ///
    /// HOST is a name, an IPv4 address, or an IPv6 address in brackets. A link-local address names a network interface
    /// of the host that uses it: `[fe80::1%eth0]:7001`.
    pub address: String,
}

/// The settings of one member. The order in `members` gives the ranks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The group's name. Processes of different groups refuse each other.
    pub group: String,
    /// The id of this process. It may be left out of the file and set by [`Config::with_member`].
    pub member: Option<MemberId>,
    /// The address at which others reach this process, if it is not listed in `members`: it then joins the running
    /// group.
    pub address: Option<String>,
    /// The address on which this process listens, if it differs from the address at which others reach it.
    ///
    /// Needed behind address translation, with a container's published port, or to listen on all interfaces
    /// (`0.0.0.0:PORT`). It has the same form as an address.
    pub listen: Option<String>,
    /// The transport.
    #[serde(default = "default_fabric")]
    pub fabric: FabricKind,
    /// The founders, in the order of their ranks in the first view. At most [`MEMBERS_MAX`].
    ///
    /// The list must be the same at every founder. A process that joins later asks these members for the group, and its
    /// list may differ.
    pub members: Vec<Member>,
    /// Addresses of further members, which need not be listed in `members`. At most [`MEMBERS_MAX`].
    ///
    /// The process asks them too whether the group runs, and joins through them. A contact that does not answer
    /// prevents founding. Members may have different contacts.
    #[serde(default)]
    pub contacts: Vec<String>,
    /// Whether this process founds the group, if it is listed in `members`.
    #[serde(default)]
    pub found: Found,
    /// The size of each sender's ring in bytes: a power of two from 4096 to 2^30. Every member holds one ring per
    /// member.
    #[serde(default = "default_ring_bytes")]
    pub ring_bytes: usize,
    /// The largest message in bytes: at most half of `ring_bytes` less 8 (the default), and less than 2^28.
    pub max_message_bytes: Option<usize>,
    /// How long `join` waits for the other members, in milliseconds.
    #[serde(default = "default_join_timeout_ms")]
    pub join_timeout_ms: u64,
    /// How long a member's engine may stand still before the group removes the member, in milliseconds.
    ///
    /// If a member's process dies, the member is removed at once. Members may have different values: the largest value
    /// among the members of the view applies.
    #[serde(default = "default_failure_timeout_ms")]
    pub failure_timeout_ms: u64,
    /// How long a member that cannot reach more than half of the group waits before it stops, in milliseconds.
    ///
    /// Members may have different values: the largest value among the members of the view applies.
    #[serde(default = "default_partition_timeout_ms")]
    pub partition_timeout_ms: u64,
    /// In a group of two, lets one member continue alone when the other one is gone. Risk: split brain.
    ///
    /// If only the link between the two breaks, both continue, and their histories diverge. Use it only where the link
    /// cannot break alone, or where an external mechanism guarantees that one of the two is dead.
    #[serde(default)]
    pub lone_survivor: bool,
    /// The most bytes of messages that a joining process buffers while it receives the group's state.
    #[serde(default = "default_join_backlog_bytes")]
    pub join_backlog_bytes: usize,
    /// Keeps every message on disk. If unset, nothing is written to disk.
    pub log: Option<LogConfig>,
    /// The RDMA settings.
    #[serde(default)]
    pub verbs: Verbs,
    /// How long an idle engine polls before it sleeps in the kernel, in microseconds. 0 sleeps at once.
    #[serde(default = "default_spin_us")]
    pub spin_us: u64,
    /// The engine polls without ever sleeping. For members that have a core of their own.
    #[serde(default)]
    pub busy_poll: bool,
    /// The stack size of each library thread that calls the application's handler, in bytes, from 2^18 to 2^30.
    #[serde(default = "default_stack_bytes")]
    pub stack_bytes: usize,
}

/// The largest `failure_timeout_ms`: one hour.
pub(crate) const FAILURE_TIMEOUT_MAX_MS: u64 = 3_600_000;

/// The largest `partition_timeout_ms`: one day.
pub(crate) const PARTITION_TIMEOUT_MAX_MS: u64 = 86_400_000;

/// The most members of a group.
pub const MEMBERS_MAX: usize = 64;

/// The largest payload of a frame: the frame header has 28 bits for its length.
const FRAME_PAYLOAD_MAX: usize = (1 << 28) - 1;

fn default_fabric() -> FabricKind {
    FabricKind::Auto
}

fn default_ring_bytes() -> usize {
    4 << 20
}

fn default_join_timeout_ms() -> u64 {
    30_000
}

fn default_failure_timeout_ms() -> u64 {
    2000
}

fn default_partition_timeout_ms() -> u64 {
    10_000
}

fn default_join_backlog_bytes() -> usize {
    256 << 20
}

fn default_spin_us() -> u64 {
    20
}

fn default_stack_bytes() -> usize {
    2 << 20
}

impl Config {
    /// A configuration in which every optional key has its default.
    pub fn new(group: impl Into<String>, fabric: FabricKind, members: Vec<Member>) -> Config {
        Config {
            group: group.into(),
            member: None,
            address: None,
            listen: None,
            fabric,
            members,
            contacts: Vec::new(),
            found: Found::IfNew,
            ring_bytes: default_ring_bytes(),
            max_message_bytes: None,
            join_timeout_ms: default_join_timeout_ms(),
            failure_timeout_ms: default_failure_timeout_ms(),
            partition_timeout_ms: default_partition_timeout_ms(),
            lone_survivor: false,
            join_backlog_bytes: default_join_backlog_bytes(),
            log: None,
            verbs: Verbs::default(),
            spin_us: default_spin_us(),
            busy_poll: false,
            stack_bytes: default_stack_bytes(),
        }
    }

    /// Parses TOML and checks the values.
    pub fn from_toml(text: &str) -> Result<Config, Error> {
        let config: Config = toml::from_str(text).map_err(|e| Error::Config(explain::explained(text, &e)))?;
        config.check()?;
        Ok(config)
    }

    /// Reads, parses and checks a file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Config, Error> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::io(format!("cannot read the configuration {}", path.display()), e))?;
        Config::from_toml(&text).map_err(|e| match e {
            Error::Config(what) => Error::Config(format!("{}: {what}", path.display())),
            other => other,
        })
    }

    /// The same configuration for another member.
    pub fn with_member(mut self, id: MemberId) -> Config {
        self.member = Some(id);
        self
    }

    /// The largest message in bytes.
    pub fn max_message(&self) -> usize {
        self.max_message_bytes.unwrap_or(self.frame_max())
    }

    /// The most bytes of a message that fit a ring. With a log, 8 bytes go to the time before each message.
    fn frame_max(&self) -> usize {
        let frame = (self.ring_bytes / 2).saturating_sub(8).min(FRAME_PAYLOAD_MAX);
        if self.log.is_some() { frame.saturating_sub(8) } else { frame }
    }

    /// The same configuration with a log.
    pub fn with_log(mut self, log: LogConfig) -> Config {
        self.log = Some(log);
        self
    }

    /// This process's id, its address for peers, and its rank among the founders if it is one.
    pub fn own(&self) -> Result<(MemberId, &str, Option<usize>), Error> {
        let id = self.member.ok_or_else(|| {
            Error::Config("`member` is missing: set it to the id of this process in the group".into())
        })?;
        let listed = self.members.iter().position(|m| m.id == id);
        match (listed, &self.address) {
            (Some(rank), None) => Ok((id, &self.members[rank].address, Some(rank))),
            (None, Some(address)) => Ok((id, address, None)),
            (Some(_), Some(_)) => Err(Error::Config(format!(
                "`address` is for a process that is not listed, but member {id} is among `members`: leave one of them out"
            ))),
            (None, None) => Err(Error::Config(format!(
                "`member` is {id}, but none of the {} listed members has this id: to join a running group, set `address` to the address at which the members reach this process",
                self.members.len()
            ))),
        }
    }

    /// The address to listen on, for a process that peers reach at `own`.
    pub(crate) fn listens_at<'c>(&'c self, own: &'c str) -> ListenAt<'c> {
        match (&self.listen, &self.address) {
            (Some(listen), _) => ListenAt { address: listen, key: "`listen`" },
            (None, Some(_)) => ListenAt { address: own, key: "`address`" },
            (None, None) => ListenAt { address: own, key: "`members`" },
        }
    }

    /// Checks every value except `member`, which [`Config::own`] checks.
    pub fn check(&self) -> Result<(), Error> {
        let fail = |what: String| Err(Error::Config(what));
        if self.group.is_empty() || self.group.len() > 255 {
            return fail(format!("`group` must have 1 to 255 bytes, not {}", self.group.len()));
        }
        if self.members.is_empty() || self.members.len() > MEMBERS_MAX {
            return fail(format!("`members` must list 1 to {MEMBERS_MAX} members, not {}", self.members.len()));
        }
        let mut ids = HashSet::new();
        let mut addresses = HashSet::new();
        for member in &self.members {
            if !ids.insert(member.id) {
                return fail(format!("two members have the id {}: every id must be unique", member.id));
            }
            if !addresses.insert(&member.address) {
                return fail(format!("two members have the address {}: every address must be unique", member.address));
            }
            self.check_own_address(&member.address, &format!("address `{}` of member {}", member.address, member.id))?;
        }
        if let (Some(id), Some(address)) = (self.member, &self.address) {
            if addresses.contains(address) {
                return fail(format!(
                    "`address` is {address}, which belongs to a listed member: give this process another address"
                ));
            }
            self.check_own_address(address, &format!("address `{address}` of member {id}"))?;
        }
        if self.contacts.len() > MEMBERS_MAX {
            return fail(format!("`contacts` must list at most {MEMBERS_MAX} addresses, not {}", self.contacts.len()));
        }
        for contact in &self.contacts {
            self.check_address(contact, &format!("contact `{contact}`"))?;
            if let Some((why, _)) = address::unreachable(contact) {
                return fail(format!("contact `{contact}`: {why}: give the address at which that member is reached"));
            }
        }
        if let Some(listen) = &self.listen {
            self.check_address(listen, &format!("`listen` is `{listen}`"))?;
        }
        if !self.ring_bytes.is_power_of_two() || !(4096..=1 << 30).contains(&self.ring_bytes) {
            return Err(explain::outside("ring_bytes", self.ring_bytes));
        }
        let most = self.frame_max();
        if self.max_message() > most {
            return fail(format!(
                "`max_message_bytes` is {}, but a ring of {} bytes carries at most {most}: lower it, or raise `ring_bytes`",
                self.max_message(),
                self.ring_bytes
            ));
        }
        if !(1 << 18..=1 << 30).contains(&self.stack_bytes) {
            return Err(explain::outside("stack_bytes", self.stack_bytes));
        }
        self.verbs.check()?;
        self.log.as_ref().map_or(Ok(()), |log| log.check(self.max_message()))?;
        if !(10..=FAILURE_TIMEOUT_MAX_MS).contains(&self.failure_timeout_ms) {
            return Err(explain::outside("failure_timeout_ms", self.failure_timeout_ms));
        }
        if self.partition_timeout_ms < self.failure_timeout_ms {
            return fail(format!(
                "`partition_timeout_ms` is {}, less than `failure_timeout_ms`, which is {}: raise it, or lower `failure_timeout_ms`",
                self.partition_timeout_ms, self.failure_timeout_ms
            ));
        }
        if self.partition_timeout_ms > PARTITION_TIMEOUT_MAX_MS {
            return Err(explain::outside("partition_timeout_ms", self.partition_timeout_ms));
        }
        Ok(())
    }

    /// Like [`Config::check_address`], for an address at which other processes must be able to reach a member.
    fn check_own_address(&self, address: &str, subject: &str) -> Result<(), Error> {
        self.check_address(address, subject)?;
        match address::unreachable(address) {
            Some((why, advice)) => Err(Error::Config(format!("{subject}: {why}: {advice}"))),
            None => Ok(()),
        }
    }

    fn check_address(&self, address: &str, subject: &str) -> Result<(), Error> {
        let unix = address.strip_prefix("unix:");
        let what = match (self.fabric, unix) {
            (FabricKind::Auto, Some(_)) => "fabric `auto` needs HOST:PORT; unix:PATH is for fabric `shm`",
            (FabricKind::Verbs, Some(_)) => "fabric `verbs` needs HOST:PORT",
            (FabricKind::Tcp, Some(_)) => "fabric `tcp` needs HOST:PORT",
            (FabricKind::Auto | FabricKind::Verbs | FabricKind::Tcp, None) => match address.rsplit_once(':') {
                Some((host, _)) if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) => {
                    "an IPv6 address needs brackets: [ADDRESS]:PORT"
                }
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0) => return Ok(()),
                _ => "expected HOST:PORT, with a port from 1 to 65535",
            },
            (FabricKind::Shm, None) => "fabric `shm` needs unix:PATH",
            // The field `sun_path` holds 108 bytes, the last of which is zero.
            (FabricKind::Shm, Some(path)) if path.is_empty() || path.len() > 107 => "the path must have 1 to 107 bytes",
            (FabricKind::Shm, Some(_)) => return Ok(()),
        };
        Err(Error::Config(format!("{subject}: {what}")))
    }

    /// The values on which all members must agree, as (key, value) pairs in a fixed order.
    ///
    /// The first pair that differs is reported. `README.md` explains for every other key why it may differ.
    pub(crate) fn agreed(&self) -> Vec<(String, String)> {
        vec![
            ("group".to_owned(), self.group.clone()),
            ("fabric".to_owned(), self.fabric.to_string()),
            ("ring_bytes".to_owned(), self.ring_bytes.to_string()),
            ("lone_survivor".to_owned(), self.lone_survivor.to_string()),
            ("log".to_owned(), self.log.is_some().to_string()),
            ("log.durable_members".to_owned(), self.log.as_ref().map_or(0, |log| log.durable_members).to_string()),
            // The default depends on `ring_bytes` and `log`. These come first, so that the error names the key that the
            // user set.
            ("max_message_bytes".to_owned(), self.max_message().to_string()),
        ]
    }

    /// The values on which the founders must agree in addition: the list of members and their addresses.
    pub(crate) fn agreed_by_founders(&self) -> Vec<(String, String)> {
        let mut pairs = self.agreed();
        pairs.push(("number of members".to_owned(), self.members.len().to_string()));
        for (rank, member) in self.members.iter().enumerate() {
            pairs.push((format!("members[{rank}]"), format!("{} at {}", member.id, member.address)));
        }
        pairs
    }
}
