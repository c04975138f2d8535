//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use galerna::log::Version;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Looks at a persistent log. Changes nothing in it, and may be used (but for `recover`) while a process writes the log: what is read
/// is what was whole when the command began.
///
/// The status is 0 if all is well, 1 if something in the log is damaged, and 2 if the command cannot do what it is to do.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Lists the segments, with the versions and times of their records, and what else the log has.
    List(ListArgs),
    /// Reads all records, the checkpoint and the blobs, and checks every checksum.
    ///
    /// Each damage is told with its file and the offset in it; behind one, the check goes on in the next segment. A torn tail
    /// (the last record is not whole: a crash left it so, or it is being written) is told and is no damage. Index files are not
    /// checked: the log builds a damaged one anew.
    Verify(VerifyArgs),
    /// Prints records.
    Print(PrintArgs),
    /// Writes records to a file, in a simple format.
    ///
    /// The format is JSON Lines: UTF-8, one object with these keys for each record, each on a line of its own, in the order of
    /// the versions:
    ///
    ///   view, sequence  the version                      (integers of 64 bits)
    ///   time_ns         nanoseconds since 1970           (integer of 64 bits)
    ///   time            the same as RFC 3339, in UTC     (string)
    ///   sender          the member's number              (integer)
    ///   mode            fifo, ordered, safe or durable   (string)
    ///   kind            message or decision              (string)
    ///   bytes           length of the payload            (integer)
    ///   payload_hex     two digits 0-9a-f for each byte  (string)
    ///
    /// The integers of 64 bits are greater than what a double holds exactly. Later versions may add keys, not change these.
    #[command(verbatim_doc_comment)]
    Export(ExportArgs),
    /// Makes a new group out of the log of one member, for the day when the disks of too many others are lost.
    ///
    /// A group starts again by itself once more than half of the voters of its last view are back with their logs (of two members one
    /// is enough with `lone_survivor = true`). This is for the case that this cannot be any more, and it costs what only the lost
    /// members had: nobody can know what that was. So use the longest log that is left: `galerna-log list` shows how far each goes.
    ///
    /// The log in DIR is not changed. NEW_DIR gets a copy of it, under a new group id, with a last view that has this member only; it
    /// appears as a whole or not at all. Its parent is then to be `log.directory`, and its name must be that of DIR, `GROUP-ID`: the
    /// member looks for its log by that name, and another name is refused. Start this member first; all others, also those that still
    /// have a log of the old group, start with empty log directories and join.
    Recover(RecoverArgs),
}

#[derive(Args)]
pub(crate) struct RecoverArgs {
    /// The directory of the member's log; no process may be using it.
    pub(crate) dir: PathBuf,
    /// The directory to make, which must not be there yet, and has the name of DIR under another parent.
    pub(crate) new_dir: PathBuf,
    /// Needed: what only the lost members had is gone for good.
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// The members whose disks are lost, by their ids. Refused if the others are more than half of the last view's voters, as these
    /// would start again without any loss.
    #[arg(long, value_name = "ID,...", value_delimiter = ',', required = true)]
    pub(crate) lost: Vec<u32>,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    /// The log's directory.
    pub(crate) dir: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// The log's directory.
    pub(crate) dir: PathBuf,
}

/// Which records.
#[derive(Args)]
pub(crate) struct RangeArgs {
    /// Begin with the first record of this version or a greater one. SEQ alone is looked for in all views, record by record.
    #[arg(long, value_name = "VIEW.SEQ|SEQ", value_parser = place)]
    pub(crate) from: Option<Place>,
    /// End with the last record of this version or a smaller one.
    #[arg(long, value_name = "VIEW.SEQ|SEQ", value_parser = place)]
    pub(crate) to: Option<Place>,
}

#[derive(Args)]
pub(crate) struct PrintArgs {
    /// The log's directory.
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) range: RangeArgs,
    /// The last record whose time is this or earlier, and with --limit those that follow it. Nanoseconds since 1970, or RFC 3339
    /// in UTC, as 2026-01-31T09:30:00.25Z.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["from", "to"])]
    pub(crate) at: Option<u64>,
    /// So many records at most.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// How a record is shown.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// The log's directory.
    pub(crate) dir: PathBuf,
    /// The file, which must not be there yet; - for standard output.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) range: RangeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One line; the payload as text where it is printable, otherwise in hexadecimal.
    Text,
    /// One line, and the payload below it, 16 bytes in each line.
    Hex,
    /// One JSON object on a line, as `export` writes it.
    Json,
}

/// A version as it is given: perhaps without its view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Version(Version),
    Sequence(u64),
}

fn place(text: &str) -> Result<Place, String> {
    let number = |digits: &str| digits.parse::<u64>().map_err(|_| "expected VIEW.SEQ or SEQ, as 3.1200".to_owned());
    match text.split_once('.') {
        Some((view, sequence)) => Ok(Place::Version(Version { view: number(view)?, sequence: number(sequence)? })),
        None => Ok(Place::Sequence(number(text)?)),
    }
}

fn time(text: &str) -> Result<u64, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| "more nanoseconds than 64 bits hold".to_owned());
    }
    let time: SystemTime = humantime::parse_rfc3339(text).map_err(|error| {
        format!("expected nanoseconds since 1970 or RFC 3339 in UTC, as 2026-01-31T09:30:00Z: {error}")
    })?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| "a time before 1970".to_owned())?;
    u64::try_from(since.as_nanos()).map_err(|_| "a time too late".to_owned())
}
