//! Rows in memory that the device may access.

use super::super::{Row, TableSpec};
use super::port::Port;
use super::sys::{IBV_ACCESS_LOCAL_WRITE, IBV_ACCESS_REMOTE_READ, IBV_ACCESS_REMOTE_WRITE, MemoryRegion};
use crate::error::Error;
use memmap2::{MmapMut, MmapOptions};
use std::io;
use std::sync::Arc;

/// The size of a huge page on the machines for which RDMA devices exist.
const HUGE_PAGE: usize = 2 << 20;

/// The processes that may access a region, besides this process's own queue pairs, which read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Peers read it: the own rows, and the directory.
    Read,
    /// Its owner writes it, other peers read it, and this process's read requests write it: copies of peers' rows.
    ReadWrite,
}

impl Access {
    fn flags(self) -> u32 {
        match self {
            Access::Read => IBV_ACCESS_REMOTE_READ,
            Access::ReadWrite => IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
        }
    }
}

/// A row and its registration, which keeps the row mapped.
pub(super) struct Region {
    memory: MemoryRegion,
    pub(super) row: Arc<Row>,
}

/// The remote address and key of a region, as a peer's requests name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Target {
    pub(super) address: u64,
    pub(super) key: u32,
}

impl Target {
    /// The target `offset` bytes further on. The peer's values may be out of range; the device refuses such a request.
    pub(super) fn at(self, offset: usize) -> Target {
        Target { address: self.address.wrapping_add(offset as u64), key: self.key }
    }
}

impl Region {
    /// Allocates at least `len` bytes of zeroed memory, with the first `columns_len` bytes as columns. Uses huge pages
    /// if there are any.
    pub(super) fn new(port: &Port, len: usize, columns_len: usize, access: Access) -> Result<Arc<Region>, Error> {
        if len >= HUGE_PAGE
            && let Ok(map) = MmapOptions::new().len(len.next_multiple_of(HUGE_PAGE)).huge(Some(21)).map_anon()
        {
            // The device then needs one translation instead of 512. Not all drivers accept huge pages (rxe does not).
            match Region::register(port, map, len, columns_len, access) {
                Ok(region) => return Ok(region),
                Err(error) => tracing::debug!(%error, len, "huge pages are not used"),
            }
        }
        let map = MmapMut::map_anon(len).map_err(|e| Error::io(format!("verbs: cannot map {len} bytes"), e))?;
        Region::register(port, map, len, columns_len, access)
    }

    /// Registers the first `len` bytes of `map`.
    fn register(
        port: &Port,
        map: MmapMut,
        len: usize,
        columns_len: usize,
        access: Access,
    ) -> Result<Arc<Region>, Error> {
        let row = Arc::new(Row::from_map(map.into(), columns_len));
        // SAFETY: whole pages that belong to this map only. They stay mapped while the row exists, and are accessed
        // only through atomics and raw pointers, as `Row` does.
        let memory = unsafe { MemoryRegion::register(&port.domain, row.ptr(0..0), len, access.flags(), row.clone()) };
        let memory =
            memory.map_err(|e| Error::io(format!("verbs: cannot register {len} bytes"), io::Error::from(e)))?;
        Ok(Arc::new(Region { memory, row }))
    }

    /// Allocates one region per table.
    pub(super) fn rows(port: &Port, specs: &[TableSpec], access: Access) -> Result<Vec<Arc<Region>>, Error> {
        specs.iter().map(|spec| Region::new(port, spec.row_len, spec.columns_len, access)).collect()
    }

    /// The key for requests of this process.
    pub(super) fn local_key(&self) -> u32 {
        self.memory.local_key()
    }

    /// The address of a byte, for requests of this process.
    ///
    /// # Panics
    /// If the offset is out of range: a bug in this library.
    pub(super) fn address(&self, offset: usize) -> u64 {
        self.row.ptr(offset..offset) as u64
    }

    /// The target for requests of peers.
    pub(super) fn target(&self) -> Target {
        Target { address: self.address(0), key: self.memory.remote_key() }
    }
}
