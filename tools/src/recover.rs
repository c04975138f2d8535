//! `galerna-log recover`

use crate::args::RecoverArgs;
use crate::record::rfc3339;
use crate::{Failure, Result};
use galerna::{MemberId, RecoverError, Recovered};

pub(crate) fn run(args: &RecoverArgs) -> Result<()> {
    if !args.accept_loss {
        let what = "what only the lost members had is gone for good: say --accept-loss if that is accepted";
        return Err(Failure::Unusable(what.to_owned()));
    }
    let lost: Vec<MemberId> = args.lost.iter().map(|&id| MemberId(id)).collect();
    let recovered = galerna::recover(&args.dir, &args.new_dir, &lost).map_err(|error| match error {
        RecoverError::Log(error) => error.into(),
        refused => Failure::Unusable(refused.to_string()),
    })?;
    tell(args, &recovered, &lost);
    Ok(())
}

fn list(ids: &[MemberId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn named(lost: &[MemberId]) -> String {
    match lost {
        [one] => format!("member {one}"),
        more => format!("members {}", list(more)),
    }
}

fn tell(args: &RecoverArgs, made: &Recovered, lost: &[MemberId]) {
    let Recovered { member, view, voters, group_ids: (old, new), records, unfinished, last } = made;
    println!("made {}: the log of group {new:#018x}, whose only member is {member}", args.new_dir.display());
    println!("out of the log of group {old:#018x} in {}, which is as it was", args.dir.display());
    println!(
        "it holds {records} records of the old group, and {unfinished} messages that the end of view {view} had brought"
    );
    match last {
        Some((version, time_ns)) => println!("the last record is {version} of {}", rfc3339(*time_ns)),
        None => println!("the old group had no record"),
    }
    println!();
    println!("what may be missing, without {} of view {view} (its voters: {}):", named(lost), list(voters));
    println!(
        "- messages that came later, or that only lost members had: also `durable` ones, if `log.durable_members` is less than all"
    );
    println!("- all that the group did after view {view}, if it went on without member {member}");
    println!();
    println!(
        "what to do: set `log.directory` so that this is the directory of member {member}; start member {member};"
    );
    println!(
        "then the others, each with an empty log directory: they join, and take its state. A log of the old group is refused."
    );
}
