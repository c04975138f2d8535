//! This process's log: where it lies, what a former life left in it, and what is kept beside it.

use super::wire::Place;
use crate::config::{Config, FabricKind, LogConfig, MemberId};
use crate::error::Error;
use crate::log::{Identity, Kind, Log, LogOptions, OsDisk, Version};
use crate::membership::Ledger;
use crate::multicast::{TAIL, Tail};
use crate::node::{CLOCK, LEDGER, Recovery};
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
    /// The group's.
    name: String,
    me: MemberId,
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

fn unusable(log: &LogConfig, error: Error) -> Error {
    let Error::Io { what, source } = error else { return error };
    let directory = log.directory.display();
    let advice = "name a directory in which this process may make directories and files, or correct that one";
    let what = format!("`log.directory` is `{directory}`, where no log can be kept ({advice}): {what}");
    Error::Io { what, source }
}

impl Vault {
    /// Opens the log, if there is one already that holds anything: a founding, or a join, that came to nothing leaves an empty
    /// one, of a group that may never have been.
    pub(super) fn open(log: &LogConfig, config: &Config, me: MemberId) -> Result<Vault, Error> {
        let path = log.directory_of(&config.group, me);
        let identity = Identity { member: u64::from(me.0), ..Identity::default() };
        let options = LogOptions { segment_bytes: log.segment_bytes, identity, ..LogOptions::default() };
        let (fabric, max_message) = (config.fabric, config.max_message());
        // Before the others are met: they would begin a view with a member that cannot keep its log.
        OsDisk::try_out(&path).map_err(|error| unusable(log, error))?;
        let mut vault = Vault { path, options, name: config.group.clone(), me, fabric, max_message, log: None };
        if let Some(found) = Log::identity_of(&vault.path)? {
            if !found.is_of(&vault.name) {
                return Err(vault.foreign("group name", &vault.name, "another one"));
            }
            vault.options.identity.group = found.group;
            vault.log = Some(Arc::new(Log::open(&vault.path, vault.options.clone())?));
            vault.discard_empty()?;
            vault.check_files()?;
        }
        vault.check_size()?;
        Ok(vault)
    }

    /// Also one that joins a running group, and needs some of these files no more, is told what its disk has damaged.
    fn check_files(&self) -> Result<(), Error> {
        let Some(log) = &self.log else { return Ok(()) };
        [LEDGER, TAIL, CLOCK, PLACES].iter().try_for_each(|name| log.load(name).map(drop))
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

    /// Removes the log if it holds nothing: a founding, or a join, has come to nothing.
    pub(super) fn discard_empty(&mut self) -> Result<(), Error> {
        let Some(log) = &self.log else { return Ok(()) };
        // The record that begins the first view comes before the ledger.
        let has_records = log.durable().is_some_and(|last| last > Version::default());
        if log.load(LEDGER)?.is_none() && !has_records && !log.has_snapshot()? {
            self.discard()?;
        }
        Ok(())
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
        let group = Identity::of_group(group_id, &self.name, self.me);
        if let Some(log) = &self.log {
            if self.options.identity == group {
                return Ok(log.clone());
            }
            let theirs = format!("{:#018x}", self.options.identity.group_id());
            return Err(self.foreign("group", &format!("{group_id:#018x}"), &theirs));
        }
        self.options.identity = group;
        let log = Arc::new(Log::open(&self.path, self.options.clone())?);
        self.log = Some(log.clone());
        Ok(log)
    }

    fn foreign(&self, key: &'static str, ours: &str, theirs: &str) -> Error {
        Error::LogForeign {
            file: self.path.display().to_string(),
            key,
            ours: ours.to_owned(),
            theirs: theirs.to_owned(),
        }
    }

    /// Another attempt may open the log.
    pub(super) fn close(&self) {
        if let Some(Err(error)) = self.log.as_ref().map(|log| log.shut()) {
            tracing::error!(%error, "the group's log");
        }
    }

    /// The group of the log, if there is one.
    pub(super) fn group_id(&self) -> Option<u64> {
        self.log.as_ref().map(|_| self.options.identity.group_id())
    }

    /// Where the members of the last view were found, as far as the log says.
    pub(super) fn places(&self) -> Result<Vec<Place>, Error> {
        Ok(self.kept_places()?.map(|places| places.places).unwrap_or_default())
    }

    fn kept_places(&self) -> Result<Option<Places>, Error> {
        let Some(bytes) = self.log.as_ref().map(|log| log.load(PLACES)).transpose()?.flatten() else { return Ok(None) };
        let places = toml::from_str(&String::from_utf8_lossy(&bytes));
        places.map(Some).map_err(|error| self.damaged(PLACES, &error.to_string()))
    }

    fn damaged(&self, name: &str, what: &str) -> Error {
        let file = self.path.join(format!("{name}.blob")).display().to_string();
        Error::LogDamaged { file, offset: 0, what: what.to_owned() }
    }

    /// Whether there is a log.
    pub(super) fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// What the former life left, if it was in the group: then it takes part when that comes back.
    pub(super) fn past(&self) -> Result<Option<Past>, Error> {
        let Some(log) = &self.log else { return Ok(None) };
        let damaged = |name: &str, what: &str| self.damaged(name, what);
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
        if let Some(clock) = log.load(CLOCK)? {
            let word = clock.try_into().map_err(|_| damaged(CLOCK, "it is no time of 8 bytes"))?;
            recovery.announced_ns = u64::from_le_bytes(word);
        }
        let places = self.kept_places()?;
        let group_id = self.options.identity.group_id();
        // The crash came before they were kept: the configuration knows the founders.
        let places = places.unwrap_or(Places { fabric: self.fabric, places: Vec::new() });
        Ok(ledger.is_member().then_some(Past { group_id, ledger, recovery, places }))
    }
}
