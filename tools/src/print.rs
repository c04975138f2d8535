//! `galerna-log print`

use crate::args::{Format, Place, PrintArgs, RangeArgs};
use crate::record::{self, Line};
use crate::walk::{self, Walk};
use crate::{Failure, Result};
use std::io::{self, BufWriter, Write};

pub(crate) fn run(args: &PrintArgs) -> Result<()> {
    let (mut walk, limit) = match args.at {
        None => (Walk::over(&args.dir, &args.range)?, args.limit.unwrap_or(u64::MAX)),
        Some(time_ns) => {
            let found = walk::open(&args.dir)?.reader().at_time(time_ns)?;
            let before = || Failure::Unusable(format!("no record is as old as {}", record::rfc3339(time_ns)));
            let from = found.ok_or_else(before)?.version();
            let range = RangeArgs { from: Some(Place::Version(from)), to: None };
            (Walk::over(&args.dir, &range)?, args.limit.unwrap_or(1))
        }
    };
    let mut out = BufWriter::new(io::stdout().lock());
    for _ in 0..limit {
        let Some(entry) = walk.next()? else { break };
        match args.format {
            Format::Text => writeln!(out, "{}  {}", record::head(&entry), record::text(&entry))?,
            Format::Hex => write!(out, "{}\n{}", record::head(&entry), record::dump(&entry))?,
            Format::Json => writeln!(out, "{}", serde_json::to_string(&Line::of(&entry))?)?,
        }
    }
    out.flush()?;
    walk.tell_trimmed();
    Ok(())
}
