//! Bytes of a file that no longer change: in place where the file is mapped, copied where it is not.

use super::disk::{Disk, File};
use super::map::Map;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// A file to read from.
pub(super) enum Source {
    Mapped(Map),
    File(Box<dyn File>),
}

impl Source {
    pub(super) fn open(disk: &dyn Disk, name: &str) -> io::Result<Source> {
        let file = disk.open(name)?;
        Ok(match file.map() {
            Ok(Some(map)) => Source::Mapped(map),
            Ok(None) => Source::File(file),
            // The process has too many mappings, or no room for one more of this size.
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Source::File(file),
            Err(error) => return Err(error),
        })
    }

    /// Whether it holds memory that must not change while somebody has it.
    pub(super) fn is_mapped(&self) -> bool {
        matches!(self, Source::Mapped(_))
    }

    /// The bytes from `offset`; `UnexpectedEof` if the file is shorter. Only for bytes below the durable end.
    pub(super) fn view(self: &Arc<Self>, offset: u64, len: usize) -> io::Result<Bytes> {
        #[cfg(test)]
        touched::count(Arc::as_ptr(self) as usize, offset, len);
        match &**self {
            Source::Mapped(map) => {
                map.bytes(offset, len).ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok(Bytes(Place::Mapped { source: self.clone(), offset, len }))
            }
            Source::File(file) => {
                let mut bytes = vec![0; len];
                file.read_at(offset, &mut bytes)?;
                Ok(Bytes(Place::Copied(bytes.into())))
            }
        }
    }
}

/// Bytes, and what keeps them.
#[derive(Clone)]
pub(super) struct Bytes(Place);

#[derive(Clone)]
enum Place {
    Mapped { source: Arc<Source>, offset: u64, len: usize },
    Copied(Arc<[u8]>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Mapped { source, offset, len } => match &**source {
                // `view` has seen that the range is in the mapping.
                Source::Mapped(map) => map.bytes(*offset, *len).unwrap_or_default(),
                Source::File(_) => &[],
            },
            Place::Copied(bytes) => bytes,
        }
    }
}

/// Counts the pages that this thread looks at.
#[cfg(test)]
pub(super) mod touched {
    use std::cell::RefCell;
    use std::collections::HashSet;

    thread_local! {
        static PAGES: RefCell<Option<HashSet<(usize, u64)>>> = const { RefCell::new(None) };
    }

    pub(super) fn count(source: usize, offset: u64, len: usize) {
        PAGES.with_borrow_mut(|pages| {
            if let Some(pages) = pages {
                pages.extend((offset / 4096..(offset + len as u64).div_ceil(4096)).map(|page| (source, page)));
            }
        });
    }

    /// What `run` gives, and how many pages it looked at.
    pub(in crate::log) fn pages<T>(run: impl FnOnce() -> T) -> (T, usize) {
        PAGES.set(Some(HashSet::new()));
        let given = run();
        (given, PAGES.take().unwrap_or_default().len())
    }
}
