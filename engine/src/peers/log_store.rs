//! Manages this process's log: its directory, the contents from an earlier run, and the files beside it.

use crate::config::{Config, FabricKind, LogConfig};
use crate::error::Error;
use crate::log::{Identity, Kind, Log, LogOptions, OsDisk};
use crate::meet::questions::Place;
use crate::membership::HardState;
use crate::multicast::{TAIL, Tail};
use crate::node::{CLOCK, HARD_STATE, Recovery};
use crate::types::{MemberId, Version};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The name of the file with the addresses of the last view's members.
pub(crate) const PLACES: &str = "places";
/// Time limit for a small operation on the disk.
pub(crate) const DISK_TIME: Duration = Duration::from_secs(30);

/// The addresses and the fabric of the members of a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    pub(crate) fabric: FabricKind,
    pub(crate) places: Vec<Place>,
}

/// Manages this process's log.
pub(crate) struct LogStore {
    path: PathBuf,
    options: LogOptions,
    /// The name of the group.
    name: String,
    me: MemberId,
    fabric: FabricKind,
    max_message: usize,
    log: Option<Arc<Log>>,
}

/// The data that an earlier run of this process left.
pub(crate) struct Past {
    pub(crate) group_id: u64,
    pub(crate) hard_state: HardState,
    pub(crate) recovery: Recovery,
    pub(crate) places: Places,
}

fn unusable(log: &LogConfig, error: Error) -> Error {
    let Error::Io { what, source } = error else { return error };
    Error::Io { what: format!("`log.directory` is `{}`: {what}", log.directory.display()), source }
}

impl LogStore {
    /// Opens the log if it exists and contains something.
    ///
    /// A founding or a join that failed leaves an empty log, of a group that may never have existed. Such a log is
    /// removed.
    pub(crate) fn open(log: &LogConfig, config: &Config, me: MemberId) -> Result<LogStore, Error> {
        let path = log.directory_of(&config.group, me);
        let identity = Identity { member: u64::from(me.0), ..Identity::default() };
        let options = LogOptions { segment_bytes: log.segment_bytes, identity, ..LogOptions::default() };
        let (fabric, max_message) = (config.fabric, config.max_message());
        // Checked before the other founders are met. They would otherwise begin a view with a member that cannot write
        // its log.
        OsDisk::try_out(&path).map_err(|error| unusable(log, error))?;
        let mut store = LogStore { path, options, name: config.group.clone(), me, fabric, max_message, log: None };
        if let Some(found) = Log::identity_of(&store.path)? {
            if !found.is_of(&store.name) {
                return Err(store.foreign("group name", &store.name, "another name"));
            }
            store.options.identity.group = found.group;
            store.log = Some(Arc::new(Log::open(&store.path, store.options.clone())?));
            store.discard_empty()?;
            store.check_files()?;
        }
        store.check_size()?;
        Ok(store)
    }

    /// Checks that the files beside the log are readable.
    ///
    /// A process that joins a running group does not need some of these files, but it must report damage on its disk,
    /// too.
    fn check_files(&self) -> Result<(), Error> {
        let Some(log) = &self.log else { return Ok(()) };
        [HARD_STATE, TAIL, CLOCK, PLACES].iter().try_for_each(|name| log.load(name).map(drop))
    }

    /// Checks that the configured messages fit: a log keeps its segment size even if the configuration changes.
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

    /// Removes the log if it contains nothing, after a founding or a join has failed.
    pub(crate) fn discard_empty(&mut self) -> Result<(), Error> {
        let Some(log) = &self.log else { return Ok(()) };
        // The record that begins the first view is written before the hard state.
        let has_records = log.durable().is_some_and(|last| last > Version::default());
        if log.load(HARD_STATE)?.is_none() && !has_records && !log.has_snapshot()? {
            self.discard()?;
        }
        Ok(())
    }

    /// Removes the log and its directory.
    pub(crate) fn discard(&mut self) -> Result<(), Error> {
        let Some(log) = self.log.take() else { return Ok(()) };
        let mut gone = self.path.clone().into_os_string();
        gone.push(".discarded");
        let failed = |error| Error::io(format!("removing the directory {}", self.path.display()), error);
        match std::fs::remove_dir_all(&gone) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // The rename removes the log completely or not at all, while no other process can open it.
        std::fs::rename(&self.path, &gone).map_err(failed)?;
        log.shut()?;
        std::fs::remove_dir_all(&gone).map_err(failed)
    }

    /// Returns the log of the group with this id; makes one if there is none.
    pub(crate) fn of(&mut self, group_id: u64) -> Result<Arc<Log>, Error> {
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

    /// Closes the log, so that another attempt can open it.
    pub(crate) fn close(&self) {
        if let Some(Err(error)) = self.log.as_ref().map(|log| log.shut()) {
            tracing::error!(%error, "cannot close the group's log");
        }
    }

    /// The id of the group that the log belongs to, if there is a log.
    pub(crate) fn group_id(&self) -> Option<u64> {
        self.log.as_ref().map(|_| self.options.identity.group_id())
    }

    /// The addresses of the last view's members, as far as the log contains them.
    pub(crate) fn places(&self) -> Result<Vec<Place>, Error> {
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
    pub(crate) fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// The data of an earlier run, if it was in the group. With it, this process takes part in a restart of the group.
    pub(crate) fn past(&self) -> Result<Option<Past>, Error> {
        let Some(log) = &self.log else { return Ok(None) };
        let damaged = |name: &str, what: &str| self.damaged(name, what);
        let Some(bytes) = log.load(HARD_STATE)?.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        let mut hard_state = HardState::decode(&bytes).map_err(|what| damaged(HARD_STATE, what))?;
        let mut recovery = Recovery::default();
        if let Some(last) = log.durable()
            && let Some(entry) = log.get(last)?
        {
            (recovery.last, recovery.time_ns) = (last, entry.time_ns());
            if entry.record().kind == Kind::Decision {
                hard_state = hard_state.advance(&entry);
            }
        }
        if let Some(tail) = log.load(TAIL)? {
            recovery.tail = Some(Tail::decode(&tail).ok_or_else(|| damaged(TAIL, "the content cannot be decoded"))?);
        }
        if let Some(clock) = log.load(CLOCK)? {
            let word = clock.try_into().map_err(|_| damaged(CLOCK, "the time does not have 8 bytes"))?;
            recovery.announced_ns = u64::from_le_bytes(word);
        }
        let places = self.kept_places()?;
        let group_id = self.options.identity.group_id();
        // The crash came before the addresses were stored. The configuration contains those of the founders.
        let places = places.unwrap_or(Places { fabric: self.fabric, places: Vec::new() });
        Ok(hard_state.is_member().then_some(Past { group_id, hard_state, recovery, places }))
    }
}
