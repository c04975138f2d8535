//! This process's log: where it lies, what a former life left in it, and what is kept beside it.

use super::wire::Place;
use crate::config::{Config, FabricKind, LogConfig, MemberId};
use crate::error::Error;
use crate::log::{Identity, Kind, Log, LogOptions, Version};
use crate::membership::Ledger;
use crate::multicast::{TAIL, Tail};
use crate::node::{LEDGER, Recovery};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The name of the file that says where the members of the last view are found.
pub(super) const PLACES: &str = "places";
/// How long the disk may take over something small.
pub(super) const DISK_TIME: Duration = Duration::from_secs(30);

/// How the members of a view are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Places {
    pub(super) fabric: FabricKind,
    pub(super) places: Vec<Place>,
}

/// See the module.
pub(super) struct Vault {
    path: PathBuf,
    options: LogOptions,
    fabric: FabricKind,
    max_message: usize,
    log: Option<Arc<Log>>,
}

/// What a former life left.
pub(super) struct Past {
    pub(super) group_id: u64,
    pub(super) ledger: Ledger,
    pub(super) recovery: Recovery,
    pub(super) places: Places,
}

impl Vault {
    /// Opens the log, if there is one already that holds anything: a founding, or a join, that came to nothing leaves an empty
    /// one, of a group that may never have been.
    pub(super) fn open(log: &LogConfig, config: &Config, me: MemberId) -> Result<Vault, Error> {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = config.group.chars().map(plain).collect();
        let path = log.directory.join(format!("{name}-{me}"));
        let identity = Identity { member: u64::from(me.0), ..Identity::default() };
        let options = LogOptions { segment_bytes: log.segment_bytes, identity, ..LogOptions::default() };
        let (fabric, max_message) = (config.fabric, config.max_message());
        let mut vault = Vault { path, options, fabric, max_message, log: None };
        if let Some(found) = Log::identity_of(&vault.path)? {
            vault.options.identity.group = found.group;
            let log = vault.log.insert(Arc::new(Log::open(&vault.path, vault.options.clone())?));
            // The record that begins the first view comes before the ledger.
            let has_records = log.durable().is_some_and(|last| last > Version::default());
            if log.load(LEDGER)?.is_none() && !has_records && !log.has_snapshot()? {
                vault.discard()?;
            }
        }
        vault.check_size()?;
        Ok(vault)
    }

    /// A log keeps the size of its segments, whatever the configuration says now.
    fn check_size(&self) -> Result<(), Error> {
        let Some(most) = self.log.as_ref().map(|log| log.payload_max()) else { return Ok(()) };
        if self.max_message <= most {
            return Ok(());
        }
        let (path, max_message) = (self.path.display(), self.max_message);
        Err(Error::Config(format!(
            "a message may have {max_message} bytes, but the segments of the log in {path} were made for records of at most {most}: lower `max_message_bytes`"
        )))
    }

    /// Removes the log, with its directory.
    pub(super) fn discard(&mut self) -> Result<(), Error> {
        let Some(log) = self.log.take() else { return Ok(()) };
        let mut gone = self.path.clone().into_os_string();
        gone.push(".discarded");
        let failed = |error| Error::io(format!("removing the directory {}", self.path.display()), error);
        match std::fs::remove_dir_all(&gone) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // Whole or not at all, and while nobody else can open it.
        std::fs::rename(&self.path, &gone).map_err(failed)?;
        log.shut()?;
        std::fs::remove_dir_all(&gone).map_err(failed)
    }

    /// The log of the group with this id, made if there is none.
    pub(super) fn of(&mut self, group_id: u64) -> Result<Arc<Log>, Error> {
        let group = Identity { group: group_bytes(group_id), ..self.options.identity };
        if let Some(log) = &self.log {
            if self.options.identity == group {
                return Ok(log.clone());
            }
            return Err(Error::LogForeign {
                file: self.path.display().to_string(),
                key: "group",
                ours: format!("{group_id:#018x}"),
                theirs: format!("{:#018x}", group_id_of(self.options.identity)),
            });
        }
        self.options.identity = group;
        let log = Arc::new(Log::open(&self.path, self.options.clone())?);
        self.log = Some(log.clone());
        Ok(log)
    }

    /// Another attempt may open the log.
    pub(super) fn close(&self) {
        if let Some(Err(error)) = self.log.as_ref().map(|log| log.shut()) {
            tracing::error!(%error, "the group's log");
        }
    }

    /// Whether there is a log.
    pub(super) fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// What the former life left, if it was in the group: then it takes part when that comes back.
    pub(super) fn past(&self) -> Result<Option<Past>, Error> {
        let Some(log) = &self.log else { return Ok(None) };
        let damaged = |name: &str, what: &str| Error::LogDamaged {
            file: format!("{} of {}", name, self.path.display()),
            offset: 0,
            what: what.to_owned(),
        };
        let Some(bytes) = log.load(LEDGER)?.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        let mut ledger = Ledger::decode(&bytes).map_err(|what| damaged(LEDGER, what))?;
        let mut recovery = Recovery::default();
        if let Some(last) = log.durable()
            && let Some(entry) = log.get(last)?
        {
            (recovery.last, recovery.time_ns) = (last, entry.time_ns());
            if entry.record().kind == Kind::Decision {
                ledger = ledger.advance(&entry);
            }
        }
        if let Some(tail) = log.load(TAIL)? {
            recovery.tail = Some(Tail::decode(&tail).ok_or_else(|| damaged(TAIL, "it is no tail"))?);
        }
        let places = log.load(PLACES)?.map(|bytes| toml::from_str(&String::from_utf8_lossy(&bytes)));
        let places = places.transpose().map_err(|e| damaged(PLACES, &e.to_string()))?;
        let group_id = group_id_of(self.options.identity);
        // The crash came before they were kept: the configuration knows the founders.
        let places = places.unwrap_or(Places { fabric: self.fabric, places: Vec::new() });
        Ok(ledger.is_member().then_some(Past { group_id, ledger, recovery, places }))
    }
}

fn group_bytes(group_id: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&group_id.to_le_bytes());
    bytes
}

fn group_id_of(identity: Identity) -> u64 {
    identity.group.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
