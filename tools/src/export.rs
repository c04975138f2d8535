//! `galerna-log export`

use crate::args::ExportArgs;
use crate::record::Line;
use crate::walk::Walk;
use crate::{Failure, Result};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

pub(crate) fn run(args: &ExportArgs) -> Result<()> {
    let mut walk = Walk::over(&args.dir, &args.range)?;
    let records = if args.file == Path::new("-") {
        write(&mut walk, io::stdout().lock())?.1
    } else {
        let made = File::create_new(&args.file);
        let made =
            made.map_err(|error| Failure::Unusable(format!("cannot create {}: {error}", args.file.display())))?;
        let (file, records) = write(&mut walk, made)?;
        file.sync_all()?;
        records
    };
    walk.tell_trimmed();
    eprintln!("{records} records");
    Ok(())
}

fn write<W: Write>(walk: &mut Walk, out: W) -> Result<(W, u64)> {
    let (mut out, mut records) = (BufWriter::new(out), 0);
    loop {
        match walk.next() {
            Ok(None) => break,
            Ok(Some(entry)) => writeln!(out, "{}", serde_json::to_string(&Line::of(&entry))?)?,
            Err(failure) => {
                // Keep the records before the damage.
                out.flush()?;
                eprintln!("note: the {records} records before it were written");
                return Err(failure);
            }
        }
        records += 1;
    }
    let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok((out, records))
}
