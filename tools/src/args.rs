//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use galerna::Version;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Inspects a persistent log without changing it. Except `recover`, every command may run while a process writes the
/// log: it reads the records that were complete when it began.
///
/// The exit status is 0 if all is well, 1 if the log is damaged, and 2 if the command could not do its work.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Lists the segments with the versions and times of their records, and the other contents of the log.
    List(ListArgs),
    /// Reads all records, the checkpoint and the blobs, and checks every checksum.
    ///
    /// Each damage is reported with its file and offset. After a damage the check continues in the next segment. A torn
    /// tail (an incomplete last record, left by a crash or still being written) is reported, but is no damage. Index
    /// files are not checked: the log rebuilds a damaged one.
    Verify(VerifyArgs),
    /// Prints records.
    Print(PrintArgs),
    /// Writes records to a file, in a simple format.
    ///
    /// The format is JSON Lines: UTF-8, one object per record, each on a line of its own, in the order of the versions.
    /// The keys are:
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
    /// The integers of 64 bits may exceed the exact range of a double. Later versions may add keys, but keep these.
    #[command(verbatim_doc_comment)]
    Export(ExportArgs),
    /// Makes a new group out of the log of one member. For the case that the disks of too many other members are lost.
    ///
    /// A group restarts by itself once more than half of the voters of its last view are back with their logs (of two
    /// members one is enough with `lone_survivor = true`). Use this command only if that is no longer possible. The new
    /// group lacks all data that only the lost members had, and it cannot be known which data that is. So use the
    /// longest remaining log: `galerna-log list` shows how far each log goes.
    ///
    /// The log in DIR is not changed. NEW_DIR gets a copy of it, under a new group id, with a last view that contains
    /// this member only. NEW_DIR appears completely or not at all. Its parent becomes `log.directory`, and its name
    /// must be that of DIR, `GROUP-ID`: the member looks for its log under that name, and another name is refused.
    /// Start this member of the new group first. All other members, including those that still have a log of the old
    /// group, start with empty log directories and join.
    Recover(RecoverArgs),
}

#[derive(Args)]
pub(crate) struct RecoverArgs {
    /// The directory of the member's log. No process may be using it.
    pub(crate) dir: PathBuf,
    /// The directory to create. It must not exist yet, and has the name of DIR under another parent.
    pub(crate) new_dir: PathBuf,
    /// Required: data that only the lost members had is gone for good.
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// The ids of the members with lost disks. Refused if the others are more than half of the last view's voters,
    /// because these would restart without any loss.
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

/// The range of records.
#[derive(Args)]
pub(crate) struct RangeArgs {
    /// Begin with the first record of this version or a greater one. SEQ alone is searched in all views, record by
    /// record.
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
    /// Print the last record at or before this time and, with --limit, the records that follow it. Nanoseconds since
    /// 1970, or RFC 3339 in UTC, e.g. 2026-01-31T09:30:00.25Z.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["from", "to"])]
    pub(crate) at: Option<u64>,
    /// Print at most this many records.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// The format of a record.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
}

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// The log's directory.
    pub(crate) dir: PathBuf,
    /// The file to create. It must not exist yet; - for standard output.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) range: RangeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One line. The payload is text if it is printable, otherwise hexadecimal.
    Text,
    /// One line, followed by the payload with 16 bytes per line.
    Hex,
    /// One JSON object per line, as written by `export`.
    Json,
}

/// A version as given by the user, perhaps without its view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Version(Version),
    Sequence(u64),
}

fn place(text: &str) -> Result<Place, String> {
    let number =
        |digits: &str| digits.parse::<u64>().map_err(|_| "expected VIEW.SEQ or SEQ, for example 3.1200".to_owned());
    match text.split_once('.') {
        Some((view, sequence)) => Ok(Place::Version(Version { view: number(view)?, sequence: number(sequence)? })),
        None => Ok(Place::Sequence(number(text)?)),
    }
}

fn time(text: &str) -> Result<u64, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| "the number of nanoseconds does not fit 64 bits".to_owned());
    }
    let time: SystemTime = humantime::parse_rfc3339(text).map_err(|error| {
        format!("expected nanoseconds since 1970 or RFC 3339 in UTC, for example 2026-01-31T09:30:00Z: {error}")
    })?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| "the time is before 1970".to_owned())?;
    u64::try_from(since.as_nanos())
        .map_err(|_| "the time is too late: its nanoseconds since 1970 do not fit 64 bits".to_owned())
}
