//! The map itself and its changes, independent of groups.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};

/// The entries, by key.
#[derive(Default, Clone, PartialEq, Eq)]
pub(crate) struct Map(BTreeMap<String, String>);

/// A change that a member makes to all maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put { key: String, value: String },
    Delete { key: String },
}

impl Change {
    pub(crate) fn key(&self) -> &str {
        match self {
            Change::Put { key, .. } | Change::Delete { key } => key,
        }
    }

    /// Encodes the change as a message: first the `life` number of its sender, by which the sender recognises its own
    /// changes, then the change.
    pub(crate) fn encode(&self, life: u64) -> Vec<u8> {
        let mut bytes = life.to_le_bytes().to_vec();
        match self {
            Change::Put { key, value } => {
                bytes.push(b'p');
                put_text(&mut bytes, key);
                put_text(&mut bytes, value);
            }
            Change::Delete { key } => {
                bytes.push(b'd');
                put_text(&mut bytes, key);
            }
        }
        bytes
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> io::Result<(u64, Change)> {
        let life = number(&mut bytes)?;
        let mut what = [0];
        bytes.read_exact(&mut what)?;
        let key = text(&mut bytes)?;
        match what {
            [b'p'] => Ok((life, Change::Put { key, value: text(&mut bytes)? })),
            [b'd'] => Ok((life, Change::Delete { key })),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the message is not a change of a map")),
        }
    }
}

impl Map {
    /// Applies a change. The same changes in the same order result in the same map.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Put { key, value } => drop(self.0.insert(key, value)),
            Change::Delete { key } => drop(self.0.remove(&key)),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Returns a copy of the map: the number of entries, then their keys and values.
    pub(crate) fn snapshot(&self) -> impl Read + Send + 'static {
        let mut bytes = (self.0.len() as u64).to_le_bytes().to_vec();
        for (key, value) in &self.0 {
            put_text(&mut bytes, key);
            put_text(&mut bytes, value);
        }
        Cursor::new(bytes)
    }

    /// Reads a map that [`Map::snapshot`] wrote.
    pub(crate) fn restore(from: &mut dyn Read) -> io::Result<Map> {
        let mut from = io::BufReader::new(from);
        let mut map = Map::default();
        for _ in 0..number(&mut from)? {
            let key = text(&mut from)?;
            map.0.insert(key, text(&mut from)?);
        }
        Ok(map)
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn text(from: &mut impl Read) -> io::Result<String> {
    let (len, mut text) = (number(from)?, String::new());
    from.take(len).read_to_string(&mut text)?;
    match text.len() as u64 == len {
        true => Ok(text),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
