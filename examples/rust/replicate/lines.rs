//! The lines of the file: arbitrary bytes between line feeds.

use crate::history::LineDigest;
use crate::options::Workload;
use anyhow::{Context, Result, bail};
use std::borrow::Cow;

/// The lines of a file, ready to be sent.
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// The end of each line, without its line feed.
    ends: Vec<usize>,
    size: Option<usize>,
    repeat: usize,
}

impl Lines {
    /// Reads the file and checks that each of its lines fits into a message of `limit` bytes.
    pub(crate) fn read(workload: &Workload, limit: usize) -> Result<Lines> {
        let file = workload.file.display();
        let bytes = std::fs::read(&workload.file).with_context(|| format!("cannot read {file}"))?;
        let mut ends: Vec<_> = (0..bytes.len()).filter(|&at| bytes[at] == b'\n').collect();
        if bytes.last().is_some_and(|&last| last != b'\n') {
            ends.push(bytes.len());
        }
        let lines = Lines { bytes, ends, size: workload.size, repeat: workload.repeat };
        if let Some(size) = workload.size.filter(|&size| size > limit) {
            bail!("--size {size} exceeds the limit of {limit} bytes for a message");
        }
        for number in 0..lines.ends.len() {
            let len = lines.get(number).len();
            if len > limit {
                bail!(
                    "line {} of {file} has {len} bytes, more than the limit of {limit} for a message; \
                     cut the lines with --size",
                    number + 1
                );
            }
        }
        Ok(lines)
    }

    /// Number of lines that all members send together.
    pub(crate) fn len(&self) -> usize {
        self.ends.len() * self.repeat
    }

    /// The numbers of the lines that member `id` of `members` sends.
    pub(crate) fn share(&self, id: u32, members: u32) -> impl ExactSizeIterator<Item = usize> {
        (id as usize..self.len()).step_by(members as usize)
    }

    /// Returns line `number` of the run, counted from 0.
    pub(crate) fn get(&self, number: usize) -> Cow<'_, [u8]> {
        let number = number % self.ends.len();
        let start = if number == 0 { 0 } else { self.ends[number - 1] + 1 };
        let line = &self.bytes[start..self.ends[number]];
        match self.size {
            None => Cow::Borrowed(line),
            Some(size) if size <= line.len() => Cow::Borrowed(&line[..size]),
            Some(size) => {
                let mut padded = line.to_vec();
                padded.resize(size, b' ');
                Cow::Owned(padded)
            }
        }
    }

    /// The expected digest of the first `count` lines of a sender, at every member.
    pub(crate) fn digest_of(&self, sender: u32, members: u32, count: usize) -> String {
        let mut digest = LineDigest::default();
        for number in self.share(sender, members).take(count) {
            digest.add(sender, &self.get(number));
        }
        digest.finish()
    }
}
