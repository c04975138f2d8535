//! The messages that the two ends of a link exchange before it is in service, over the stream that belongs to it.
//!
//! Each end sends one message, of a length that both know: 64-bit words in little-endian order, see [`Hello::words`].
//! Then each end sends one byte, [`READY`], when its queue pair accepts the other end's requests. On a link that is
//! made again, each end sends one more byte, [`SEVERED`], after it has severed its former link: earlier writes could
//! mix with those of the former link.

use super::super::{SLOTS, Slot, TableSpec};
use super::region::Target;
use super::sys::Remote;
use crate::words::{words, words_of};

/// "galernv" and the version of this message.
const MAGIC: u64 = u64::from_be_bytes(*b"galernv\x01");
/// Sent by an end when its queue pair is ready.
pub(super) const READY: u8 = 0xa5;
/// Sent by an end of a link that is made again, when nothing lands there through the former link any more.
pub(super) const SEVERED: u8 = 0x5e;
/// Words before those of the tables: magic, slots, tables, queue pair and path.
const HEAD_WORDS: usize = 15;
/// Words per table: its shape, then the target of its row.
const TABLE_WORDS: usize = 5;

/// The message of one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) from: Slot,
    pub(super) to: Slot,
    pub(super) remote: Remote,
    /// The `IBV_MTU_*` value of its port.
    pub(super) mtu: u32,
    /// True if it routes by GID, as RoCE and InfiniBand across subnets do.
    pub(super) global: bool,
    /// The number of read requests that it serves at a time.
    pub(super) reads_served: u8,
    /// True if the link is made again, with the rows of the former one.
    pub(super) again: bool,
    /// Where the other end writes its sleep and wake-up counters (see `wake`).
    pub(super) line: Target,
    /// Where the other end reads at which addresses this one has the rows of others.
    pub(super) directory: Target,
    /// By table: where this end has its copy of the other end's row.
    pub(super) rows: Vec<Target>,
}

impl Hello {
    /// Bytes of a message about `tables` tables.
    pub(super) fn len(tables: usize) -> usize {
        8 * (HEAD_WORDS + TABLE_WORDS * tables)
    }

    fn words(&self, specs: &[TableSpec]) -> Vec<u64> {
        let Remote { qp_number, psn, lid, gid } = self.remote;
        let [high, low] = [&gid[..8], &gid[8..]].map(|half| half.iter().fold(0, |sum, &b| sum << 8 | u64::from(b)));
        let mut words = vec![
            MAGIC,
            self.from as u64,
            self.to as u64,
            SLOTS as u64,
            specs.len() as u64,
            u64::from(qp_number),
            u64::from(psn),
            u64::from(lid)
                | u64::from(self.global) << 16
                | u64::from(self.mtu) << 24
                | u64::from(self.reads_served) << 32,
            high,
            low,
            self.line.address,
            u64::from(self.line.key),
            self.directory.address,
            u64::from(self.directory.key),
            u64::from(self.again),
        ];
        for (spec, row) in specs.iter().zip(&self.rows) {
            let shape = [u64::from(spec.id.0), spec.columns_len as u64, spec.row_len as u64];
            words.extend(shape.into_iter().chain([row.address, u64::from(row.key)]));
        }
        words
    }

    /// The bytes of the message.
    pub(super) fn encode(&self, specs: &[TableSpec]) -> Vec<u8> {
        words(self.words(specs))
    }

    /// Decodes the message from the process in slot `peer` to the one in slot `me`; both have tables of these shapes.
    /// The error describes the first fault.
    pub(super) fn decode(bytes: &[u8], peer: Slot, me: Slot, specs: &[TableSpec]) -> Result<Hello, String> {
        let words = words_of(bytes);
        let Some((head, tables)) = words.split_at_checked(HEAD_WORDS) else {
            return Err(format!("its set-up has {} bytes, not {}", bytes.len(), Hello::len(specs.len())));
        };
        let same = |what: &str, place: usize, wanted: u64| match head[place] {
            found if found == wanted => Ok(()),
            found => Err(format!("{what} is {found}, not {wanted}")),
        };
        if head[0] != MAGIC {
            return Err(format!(
                "its first bytes are {:x?}, which is not Galerna's RDMA set-up",
                head[0].to_le_bytes()
            ));
        }
        same("its slot", 1, peer as u64)?;
        same("the slot that it addresses", 2, me as u64)?;
        same("its number of slots", 3, SLOTS as u64)?;
        same("its number of tables", 4, specs.len() as u64)?;
        if head[14] > 1 {
            return Err(format!("its flag for a link that is made again is {}, not 0 or 1", head[14]));
        }
        let rows = rows(tables, specs)?;
        let path = head[7].to_le_bytes();
        let (mtu, reads_served) = (u32::from(path[3]), path[4]);
        if !(1..=5).contains(&mtu) || path[2] > 1 || path[5..] != [0; 3] {
            return Err(format!("its path {:#x} is malformed", head[7]));
        }
        let mut gid = [0; 16];
        gid[..8].copy_from_slice(&head[8].to_be_bytes());
        gid[8..].copy_from_slice(&head[9].to_be_bytes());
        let remote = Remote {
            qp_number: number("queue pair", head[5], 24)?,
            psn: number("first packet", head[6], 24)?,
            lid: u16::from_le_bytes([path[0], path[1]]),
            gid,
        };
        let target = |at: usize| -> Result<Target, String> {
            Ok(Target { address: head[at], key: number("memory key", head[at + 1], 32)? })
        };
        let (line, directory) = (target(10)?, target(12)?);
        let (global, again) = (path[2] == 1, head[14] == 1);
        Ok(Hello { from: peer, to: me, remote, mtu, global, reads_served, again, line, directory, rows })
    }
}

fn number(what: &str, value: u64, bits: u32) -> Result<u32, String> {
    u32::try_from(value)
        .ok()
        .filter(|_| value >> bits == 0)
        .ok_or_else(|| format!("its {what} {value:#x} has more than {bits} bits"))
}

fn rows(words: &[u64], specs: &[TableSpec]) -> Result<Vec<Target>, String> {
    let mut rows = Vec::new();
    for (place, spec) in specs.iter().enumerate() {
        let Some(words) = words.get(TABLE_WORDS * place..TABLE_WORDS * (place + 1)) else {
            return Err("its set-up is too short".to_owned());
        };
        let wanted = [u64::from(spec.id.0), spec.columns_len as u64, spec.row_len as u64];
        for ((found, wanted), what) in
            words.iter().zip(wanted).zip(["number", "length of the columns", "length of a row"])
        {
            if *found != wanted {
                return Err(format!("the {what} of its table at position {place} is {found}, not {wanted}"));
            }
        }
        rows.push(Target { address: words[3], key: number("memory key", words[4], 32)? });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::super::TableId;
    use super::*;
    use crate::fuzz::{Parser, as_it_is, run};

    fn specs() -> Vec<TableSpec> {
        [(1, 64, 128), (7, 4096, 1 << 20)]
            .map(|(id, columns_len, row_len)| TableSpec { id: TableId(id), columns_len, row_len })
            .to_vec()
    }

    fn hello() -> Hello {
        let target = |n: u64| Target { address: u64::MAX - n, key: u32::MAX - n as u32 };
        Hello {
            from: 3,
            to: 63,
            remote: Remote {
                qp_number: 0xff_fffe,
                psn: 0x12_3456,
                lid: 0xabcd,
                gid: std::array::from_fn(|i| i as u8 | 0x80),
            },
            mtu: 5,
            global: true,
            reads_served: 16,
            again: true,
            line: target(1),
            directory: target(2),
            rows: vec![target(3), target(4)],
        }
    }

    #[test]
    fn it_survives() {
        let bytes = hello().encode(&specs());
        assert_eq!(bytes.len(), Hello::len(2));
        assert_eq!(Hello::decode(&bytes, 3, 63, &specs()), Ok(hello()));
    }

    /// Any changed byte makes the message invalid or different, and none causes a panic.
    #[test]
    fn what_is_wrong_is_said() {
        let bytes = hello().encode(&specs());
        for cut in 0..bytes.len() {
            assert!(Hello::decode(&bytes[..cut], 3, 63, &specs()).is_err(), "{cut} bytes");
        }
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] ^= 0x40;
            assert_ne!(Hello::decode(&other, 3, 63, &specs()), Ok(hello()), "byte {place}");
        }
        let says = |bytes: &[u8], peer, me, specs: &[TableSpec]| Hello::decode(bytes, peer, me, specs).unwrap_err();
        assert_eq!(says(&bytes, 4, 63, &specs()), "its slot is 3, not 4");
        assert_eq!(says(&bytes, 3, 62, &specs()), "the slot that it addresses is 63, not 62");
        assert_eq!(says(&bytes, 3, 63, &specs()[..1]), "its number of tables is 2, not 1");
        let mut longer = specs();
        longer[1].row_len *= 2;
        let what = says(&bytes, 3, 63, &longer);
        assert_eq!(what, "the length of a row of its table at position 1 is 1048576, not 2097152");
        assert!(
            says(b"GET / HTTP/1.1\r\n\r\n".repeat(20).as_slice(), 3, 63, &specs())
                .contains("not Galerna's RDMA set-up")
        );
    }

    #[test]
    fn fuzz_verbs_hello() {
        let seeds = vec![hello().encode(&specs())];
        // The words, and a target of 16 bytes for each row.
        let parser = Parser { name: "verbs hello", seeds, repair: &as_it_is, heap_max: (4, 4 << 10) };
        run(&parser, |bytes| {
            let Ok(hello) = Hello::decode(bytes, 3, 63, &specs()) else { return false };
            assert_eq!(Hello::decode(&hello.encode(&specs()), 3, 63, &specs()), Ok(hello));
            true
        });
    }
}
