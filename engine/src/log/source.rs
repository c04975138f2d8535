//! Bytes of a file that no longer change. They are read in place where the file is mapped, and copied otherwise.

use super::disk::{Disk, File};
use super::map::Map;
use super::window::zeroed;
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
            // The process has too many mappings, or no address space for one more of this size.
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Source::File(file),
            Err(error) => return Err(error),
        })
    }

    /// Whether readers get references to mapped memory, which must not change while they hold it.
    pub(super) fn is_mapped(&self) -> bool {
        matches!(self, Source::Mapped(_))
    }

    /// The length of the file in bytes.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Source::Mapped(map) => Ok(map.len()),
            Source::File(file) => file.len(),
        }
    }

    /// The bytes from `offset`. Fails with `UnexpectedEof` if the file is shorter.
    ///
    /// Only for bytes below the durable end.
    pub(super) fn view(self: &Arc<Self>, offset: u64, len: usize) -> io::Result<Bytes> {
        #[cfg(test)]
        touched::count(Arc::as_ptr(self) as usize, offset, len);
        match &**self {
            Source::Mapped(map) => {
                map.bytes(offset, len).ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok(Bytes(Place::Mapped { source: self.clone(), offset, len }))
            }
            Source::File(file) => {
                let mut bytes = zeroed(len)?;
                file.read_at(offset, &mut bytes)?;
                Ok(Bytes(Place::Copied(bytes.into())))
            }
        }
    }
}

/// Bytes, together with the memory that holds them.
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
                // `view` has checked that the range lies in the mapping.
                Source::Mapped(map) => map.bytes(*offset, *len).unwrap_or_default(),
                Source::File(_) => &[],
            },
            Place::Copied(bytes) => bytes,
        }
    }
}

/// Counts the pages that this thread reads.
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

    /// The result of `run`, and the number of pages that it read.
    pub(in crate::log) fn pages<T>(run: impl FnOnce() -> T) -> (T, usize) {
        PAGES.set(Some(HashSet::new()));
        let given = run();
        (given, PAGES.take().unwrap_or_default().len())
    }
}
