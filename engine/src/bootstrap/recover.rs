//! Makes a new group from one member's log, after the disks of too many other members are lost.

use crate::config::is_directory_name;
use crate::error::Error;
use crate::log::{Identity, Kind, Log, LogOptions, OsDisk, ReadOnlyLog, Record, wall_ns};
use crate::membership::HardState;
use crate::multicast::{TAIL, Tail};
use crate::node::HARD_STATE;
use crate::peers::log_store::{PLACES, Places};
use crate::types::{MemberId, Mode, Version, list, named};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time limit for one operation on the disk.
const DISK_TIME: Duration = Duration::from_secs(600);

/// The result of [`recover`], and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The member that owned the log. It is the only member of the new group.
    pub member: MemberId,
    /// The last view of the old group in the log.
    pub view: u64,
    /// The voters of that view.
    pub voters: Vec<MemberId>,
    /// The ids of the old and the new group.
    pub group_ids: (u64, u64),
    /// The number of messages and decisions that were copied.
    pub records: u64,
    /// The number of further messages, which the unfinished end of the last view had stored beside the log. They were
    /// copied, too.
    pub unfinished: u64,
    /// The last record of the old log: its version, and its time in nanoseconds since 1970. `None` if the log was
    /// empty.
    pub last: Option<(Version, u64)>,
}

/// The reason why no new group was made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecoverError {
    /// Recovery would be wrong. The text contains the reason and the remedy.
    #[error("{0}")]
    Refused(String),
    /// A log cannot be read or written.
    #[error(transparent)]
    Log(#[from] Error),
}

fn refuse<T>(why: impl Into<String>) -> Result<T, RecoverError> {
    Err(RecoverError::Refused(why.into()))
}

/// Makes the log of a new group in the directory `to` from the log in `from`.
///
/// The new log contains everything that this member has of the old group. This member is the only one in the new group;
/// the members `lost` do not come back. `to` must not exist yet. The old log is not changed. After a crash during the
/// call, `to` does not exist.
///
/// # Errors
/// [`RecoverError::Refused`] if the members that are not lost can continue without any loss, if the log's owner is not
/// a member of the last view, if `lost` names a process that was not in that view, or if `to` has a name under which
/// the member would not find its log. [`RecoverError::Log`] if a log cannot be read or written.
pub fn recover(from: &Path, to: &Path, lost: &[MemberId]) -> Result<Recovered, RecoverError> {
    if !from.is_dir() {
        return refuse(format!("{} is not a directory: give the directory of a member's log", from.display()));
    }
    if fs::symlink_metadata(to).is_ok() {
        return refuse(format!("{} exists already: give a directory that does not exist yet", to.display()));
    }
    // No member may use the log during the recovery.
    let _lock = OsDisk::open_locked(from)?;
    let old = Log::open_read_only(from)?;
    let hard_state = hard_state(&old, from)?;
    let me = hard_state.me().id;
    check(&hard_state, lost)?;
    check_name(from, to, old.identity(), me)?;
    let last = old.reader().end().unwrap_or_default();
    let time_ns = old.reader().last_at_or_before(last)?.map_or(0, |entry| entry.time_ns());
    let tail = old
        .load(TAIL)?
        .map(|bytes| Tail::decode(&bytes).ok_or_else(|| damaged(from, TAIL, "the content cannot be decoded")));
    let tail = tail.transpose()?;
    let alone = hard_state.alone(last, time_ns, tail.as_ref(), wall_ns());

    let made = Made::begin(to)?;
    let group_id = crate::bootstrap::join::incarnation();
    let identity = old.identity().with_group_id(group_id);
    let segment_bytes =
        old.segments().first().map_or(LogOptions::default().segment_bytes, |segment| segment.file_bytes);
    let new = Log::open(&made.path, LogOptions { segment_bytes, identity, ..LogOptions::default() })?;
    let mut records = 0;
    for entry in old.reader().iter(..) {
        new.append_record(entry?.record(), DISK_TIME)?;
        records += 1;
    }
    for &(version, time_ns, n) in &alone.messages {
        let Some(found) = tail.as_ref().and_then(|tail| tail.records.get(n)) else { continue };
        // The first 8 bytes are the message's stamp.
        let payload = found.raw.get(8..).unwrap_or_default();
        let (sender, mode) = (found.sender, found.mode);
        new.append_record(Record { version, time_ns, sender, mode, kind: Kind::Message, payload }, DISK_TIME)?;
    }
    let (version, time_of_decision, payload) = &alone.decision;
    let decision = Record {
        version: *version,
        time_ns: *time_of_decision,
        sender: MemberId(0),
        mode: Mode::Safe,
        kind: Kind::Decision,
        payload,
    };
    new.append_record(decision, DISK_TIME)?;
    new.sync(DISK_TIME)?;
    copy_checkpoint(&old, &new)?;
    if let Some(places) = own_place(&old, from, me) {
        new.save(PLACES, places.as_bytes(), DISK_TIME)?;
    }
    new.save(HARD_STATE, &alone.hard_state, DISK_TIME)?;
    new.close()?;
    made.finish(to)?;
    Ok(Recovered {
        member: me,
        view: hard_state.view().number,
        voters: hard_state.voters(),
        group_ids: (old.identity().group_id(), group_id),
        records,
        unfinished: alone.messages.len() as u64,
        last: (last > Version::default()).then_some((last, time_ns)),
    })
}

fn damaged(from: &Path, name: &str, what: &str) -> Error {
    let file = from.join(format!("{name}.blob")).display().to_string();
    Error::LogDamaged { file, offset: 0, what: what.to_owned() }
}

/// Returns the last view's hard state, as a restart would find it.
fn hard_state(log: &ReadOnlyLog, from: &Path) -> Result<HardState, RecoverError> {
    let Some(bytes) = log.load(HARD_STATE)?.filter(|bytes| !bytes.is_empty()) else {
        return refuse(format!(
            "the log in {} does not belong to a member of a group, or its member had not joined yet: use another member's log",
            from.display()
        ));
    };
    let hard_state = HardState::decode(&bytes).map_err(|what| damaged(from, HARD_STATE, what))?;
    let last = log.reader().end().map(|last| log.reader().get(last)).transpose()?.flatten();
    Ok(match last.filter(|entry| entry.record().kind == Kind::Decision) {
        Some(decision) => hard_state.advance(&decision),
        None => hard_state,
    })
}

fn check(hard_state: &HardState, lost: &[MemberId]) -> Result<(), RecoverError> {
    let (me, view) = (hard_state.me().id, hard_state.view());
    let (number, members) = (view.number, view.ids());
    if !hard_state.is_member() {
        return refuse(format!(
            "member {me} is not in view {number}, the last view of its log, because it had left: use the log of {}{}",
            if members.len() == 1 { "" } else { "one of " },
            named(&members)
        ));
    }
    if lost.contains(&me) {
        return refuse(format!("member {me} is named as lost, but this is its log: name only other members"));
    }
    if let Some(stranger) = lost.iter().find(|id| !members.contains(id)) {
        return refuse(format!("member {stranger} is not in view {number}, which has the members {}", list(&members)));
    }
    if hard_state.can_do_without(lost) {
        let here: Vec<MemberId> = members.iter().copied().filter(|id| !lost.contains(id)).collect();
        return refuse(format!(
            "{} {}, more than half of the voters of view {number} ({}): start the group as usual, without any loss",
            named(&here),
            if here.len() == 1 { "is not named as lost, and is" } else { "are not named as lost, and are" },
            list(&hard_state.voters())
        ));
    }
    Ok(())
}

/// Checks the name of the new directory. A member finds its log by name; with a wrong name it would found an empty
/// group.
fn check_name(from: &Path, to: &Path, identity: Identity, me: MemberId) -> Result<(), RecoverError> {
    let is_right =
        |name: &OsStr| name.to_str().is_some_and(|name| is_directory_name(name, me, |name| identity.is_of(name)));
    let name = to.file_name().unwrap_or_default();
    if is_right(name) {
        return Ok(());
    }
    let absolute = fs::canonicalize(from).unwrap_or_else(|_| from.to_owned());
    let own = [from, absolute.as_path()].into_iter().filter_map(Path::file_name).find(|own| is_right(own));
    let must = match own {
        Some(own) => format!("`{}`", own.display()),
        None => format!("`GROUP-{me}`, with the group's name as in the directories of its other members' logs"),
    };
    refuse(format!(
        "member {me} would not find its log in {}: the last part of the new directory's name must be {must}; put it into another directory than the old one",
        to.display()
    ))
}

fn copy_checkpoint(old: &ReadOnlyLog, new: &Log) -> Result<(), Error> {
    let Some(mut checkpoint) = old.load_snapshot()? else { return Ok(()) };
    let mut copy = new.snapshot(checkpoint.version, checkpoint.time_ns)?;
    copy.fill(&mut checkpoint, "reading the checkpoint")?;
    new.install(copy, DISK_TIME)
}

/// This member's address and its fabric, for the new log.
///
/// Errors are only logged, because the configuration can replace this file. The last remaining log of a group must not
/// become useless because of it.
fn own_place(log: &ReadOnlyLog, from: &Path, me: MemberId) -> Option<String> {
    let skipped =
        |what: &dyn std::fmt::Display| tracing::warn!("the new log will not contain the members' addresses: {what}");
    let bytes = log.load(PLACES).inspect_err(|error| skipped(error)).ok().flatten()?;
    let places = toml::from_str::<Places>(&String::from_utf8_lossy(&bytes));
    let mut places = places.inspect_err(|error| skipped(&damaged(from, PLACES, &error.to_string()))).ok()?;
    places.places.retain(|place| place.id == me.0);
    toml::to_string(&places).ok()
}

/// A directory that gets its final name when it is complete.
struct Made {
    path: PathBuf,
}

impl Made {
    fn begin(to: &Path) -> Result<Made, Error> {
        let mut path = to.as_os_str().to_owned();
        path.push(".unfinished");
        let path = PathBuf::from(path);
        match fs::remove_dir_all(&path) {
            // Success and `NotFound` are fine: the directory exists only if an earlier attempt was interrupted.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", path.display()), error))
            }
            _ => Ok(Made { path }),
        }
    }

    fn finish(self, to: &Path) -> Result<(), Error> {
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let renamed = fs::rename(&self.path, to).and_then(|()| File::open(parent)?.sync_all());
        renamed.map_err(|error| Error::io(format!("renaming {} to {}", self.path.display(), to.display()), error))
    }
}
