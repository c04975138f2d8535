//! The lines delivered to a member, and the digests by which members are compared.

use sha2::{Digest, Sha256};
use std::io::{self, Cursor, Read};

/// The lines in the order of delivery, each with its sender.
#[derive(Default)]
pub(crate) struct History {
    bytes: Vec<u8>,
    /// The sender of each line, and the end of the line in `bytes`.
    lines: Vec<(u32, usize)>,
    /// The number of lines of each sender.
    counts: Vec<usize>,
}

impl History {
    pub(crate) fn append(&mut self, sender: u32, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.lines.push((sender, self.bytes.len()));
        let sender = sender as usize;
        if self.counts.len() <= sender {
            self.counts.resize(sender + 1, 0);
        }
        self.counts[sender] += 1;
    }

    /// Size of all lines in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Number of lines of one sender.
    pub(crate) fn of(&self, sender: u32) -> usize {
        self.counts.get(sender as usize).copied().unwrap_or(0)
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Returns a copy of the history for a joining process: the number of lines, then the sender and end of each line,
    /// then the bytes of all lines.
    pub(crate) fn snapshot(&self) -> impl Read + Send + 'static {
        let mut table = (self.lines.len() as u64).to_le_bytes().to_vec();
        for &(sender, end) in &self.lines {
            table.extend(sender.to_le_bytes());
            table.extend((end as u64).to_le_bytes());
        }
        Cursor::new(table).chain(Cursor::new(self.bytes.clone()))
    }

    /// Reads a history that [`History::snapshot`] wrote.
    pub(crate) fn restore(from: &mut dyn Read) -> io::Result<History> {
        let malformed = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut count = [0; 8];
        from.read_exact(&mut count)?;
        let mut ends: Vec<(u32, usize)> = Vec::new();
        for _ in 0..u64::from_le_bytes(count) {
            let (mut sender, mut end) = ([0; 4], [0; 8]);
            from.read_exact(&mut sender)?;
            from.read_exact(&mut end)?;
            let end = usize::try_from(u64::from_le_bytes(end))
                .map_err(|_| malformed("the end of a line does not fit the address space"))?;
            ends.push((u32::from_le_bytes(sender), end));
        }
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let mut history = History::default();
        for (sender, end) in ends {
            let line =
                bytes.get(history.bytes()..end).ok_or_else(|| malformed("the end of a line is outside the history"))?;
            history.append(sender, line);
        }
        if history.bytes() != bytes.len() {
            return Err(malformed("bytes follow the last line"));
        }
        Ok(history)
    }

    /// Computes the digest of the whole history, and one digest per sender over the lines of that sender.
    pub(crate) fn digests(&self, senders: u32) -> Digests {
        let mut whole = LineDigest::default();
        let mut by_sender: Vec<_> = (0..senders).map(|_| LineDigest::default()).collect();
        let mut start = 0;
        for &(sender, end) in &self.lines {
            let line = &self.bytes[start..end];
            whole.add(sender, line);
            if let Some(own) = by_sender.get_mut(sender as usize) {
                own.add(sender, line);
            }
            start = end;
        }
        Digests { whole: whole.finish(), by_sender: by_sender.into_iter().map(LineDigest::finish).collect() }
    }
}

/// SHA-256 digests in hexadecimal digits.
pub(crate) struct Digests {
    pub(crate) whole: String,
    pub(crate) by_sender: Vec<String>,
}

/// SHA-256 over lines. Of each line it covers the sender's id (4 bytes, little endian), the bytes, and a line feed.
#[derive(Default, Clone)]
pub(crate) struct LineDigest(Sha256);

impl LineDigest {
    pub(crate) fn add(&mut self, sender: u32, line: &[u8]) {
        self.0.update(sender.to_le_bytes());
        self.0.update(line);
        self.0.update(b"\n");
    }

    pub(crate) fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
