//! Passes the content of a log to the application: the checkpoint, then the messages after it.

use crate::app::Handler;
use crate::error::Error;
use crate::log::{Kind, Log, Record};
use crate::multicast::Delivery;
use crate::peers::gate::Gate;
use crate::shared::snapshot::Covered;
use crate::types::{SubgroupId, Version};
use std::ops::Bound;

/// The part of a log that the application has after [`restore`].
pub(super) struct Restored {
    pub(super) covered: Covered,
    /// The records in this range follow.
    after: Bound<Version>,
}

/// Passes the checkpoint to the application, if there is one.
///
/// A checkpoint that another member took during the transfer may cover more than the views before `view`.
pub(super) fn restore(handler: &mut dyn Handler, gate: &Gate, log: &Log, view: u64) -> Result<Restored, Error> {
    let Some(mut checkpoint) = log.load_snapshot()? else {
        let covered = Covered { view, below: 0, ahead: Vec::new() };
        return Ok(Restored { covered, after: Bound::Unbounded });
    };
    let version = checkpoint.version;
    let covered = Covered::read(&mut checkpoint, view.max(version.view), version.next().sequence);
    let covered = covered.map_err(|error| Error::io("reading the checkpoint", error))?;
    let failed = |error| {
        let what = format!("the application's `restore` failed: {error} (checkpoint up to {version})");
        Error::StateTransfer(what)
    };
    gate.pass(|| handler.restore(&mut checkpoint)).ok_or(Error::Left)?.map_err(failed)?;
    Ok(Restored { covered, after: Bound::Excluded(version) })
}

/// Delivers the messages of the views before `view` that the checkpoint does not cover.
pub(super) fn replay(
    handler: &mut dyn Handler,
    gate: &Gate,
    log: &Log,
    view: u64,
    restored: &Restored,
) -> Result<(), Error> {
    let Restored { covered, after } = restored;
    for entry in log.iter((*after, Bound::Unbounded)) {
        let entry = entry?;
        let Record { version, time_ns, sender, mode, kind, payload } = entry.record();
        if version.view >= view {
            break;
        }
        if kind == Kind::Message && covered.ahead.binary_search(&version.sequence).is_err() {
            let (subgroup, view, sequence) = (SubgroupId(0), version.view, version.sequence);
            // The messages of an earlier life of this process have no tickets here.
            let ticket = None;
            let delivery = Delivery { subgroup, view, sender, sequence, mode, ticket, time_ns, payload };
            gate.pass(|| handler.deliver(delivery)).ok_or(Error::Left)?;
        }
    }
    Ok(())
}
