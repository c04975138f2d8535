//! `galerna-log recover`

use crate::args::RecoverArgs;
use crate::record::rfc3339;
use crate::{Failure, Result};
use galerna::{MemberId, RecoverError, Recovered};

pub(crate) fn run(args: &RecoverArgs) -> Result<()> {
    if !args.accept_loss {
        let what = "data that only the lost members had is gone for good: give --accept-loss to accept that";
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
    println!("made {}: the log of group {new:#018x}; its only member is {member}", args.new_dir.display());
    println!("source: the log of group {old:#018x} in {}, which is unchanged", args.dir.display());
    println!("it holds {records} records of the old group, and {unfinished} messages from the end of view {view}");
    match last {
        Some((version, time_ns)) => println!("the last record is {version} of {}", rfc3339(*time_ns)),
        None => println!("the old group had no records"),
    }
    println!();
    println!("possibly missing, without {} of view {view} (its voters: {}):", named(lost), list(voters));
    println!(
        "- later messages and messages that only lost members had, including `durable` ones if `log.durable_members` is less than all"
    );
    println!("- everything after view {view}, if the group continued without member {member}");
    println!();
    println!("next: set `log.directory` so that this is the directory of member {member}; start member {member};");
    println!(
        "then the others, each with an empty log directory: they join, and receive its state. A log of the old group is refused."
    );
}
