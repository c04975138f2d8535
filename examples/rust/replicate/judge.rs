//! The conditions that must hold at the end.

use crate::lines::Lines;
use crate::member::Outcome;
use crate::options::{DeliveryMode, Run};
use anyhow::{Result, ensure};

/// Checks that every member has every line of every member exactly once, and that all histories are equal. This
/// includes the process that replaced a victim.
pub(crate) fn judge(run: &Run, lines: &Lines, outcomes: &[(usize, Outcome)]) -> Result<()> {
    let Some((first, reference)) = outcomes.first() else { return Ok(()) };
    for (id, outcome) in outcomes {
        for sender in 0..run.members {
            let (expected, has) = (lines.share(sender, run.members).len(), outcome.lines_by_sender[sender as usize]);
            ensure!(has == expected, "member {id} has {has} lines of member {sender} instead of {expected}");
            let (theirs, expected) =
                (&outcome.digests_by_sender[sender as usize], lines.digest_of(sender, run.members, has));
            ensure!(
                *theirs == expected,
                "the lines of member {sender} at member {id} differ from the file: SHA-256 {theirs}, not {expected}"
            );
        }
        // The lines of each sender have been checked above. Mode `fifo` guarantees no more than that.
        ensure!(
            run.workload.mode == DeliveryMode::Fifo || outcome.digest == reference.digest,
            "the histories differ: SHA-256 {} at member {first}, {} at member {id}",
            reference.digest,
            outcome.digest
        );
    }
    Ok(())
}
