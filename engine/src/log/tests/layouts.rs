//! The exact bytes of every file of a log. A change here makes existing logs unreadable: it needs another format number.

use super::{OURS, SMALL, open_sized, payload, record, version};
use crate::log::codec::Stamp;
use crate::log::index::Index;
use crate::log::segment::{End, Header};
use crate::log::{codec, index};
use crate::simulation::disk::SimDisk;

const RECORD: &str = "\
47524543375f83fbbd1c2edd0d0c0b0a05000000040000000100000000000000
0900000000000000420400000000000008070605040302010201000000000000
f0f4f7fbff000000";

const SEGMENT: &str = "\
4753454791893f7b010000000100000007070707070707070707070707070707
030000000b000000000000002423222102000000000000000040000000000000
f87f0000000000000200000000000000cf070000000000001817161514131211
0100000000000000000000000000000000000000000000000000000000000000";

const INDEX: &str = "\
47494458aad1b6fe010000000000000002000000000000000000000000000000
0000000000000000000000000000000000000000000000000000000000000000
0100000000000000010000000000000000000000000100000010000000000000
343332313869210a010000000000000002000000000000000000000000020000
0020000000000000343332312d42d1a7";

const BLOB: &str = "\
47424c4297ccacb9010000000000000009000000000000000707070707070707
0707070707070707030000000b00000000000000000000000000000000000000
746865206279746573";

const CHECKPOINT: &str = "\
47534e50e88afdad01000000b4e89d5207070707070707070707070707070707
030000000b00000000000000000000000200000000000000d204000000000000
5857565554535251090000000000000000000000000000000000000000000000
746865207374617465";

const MARKS: &str = "\
47424c425214813f010000000000000047000000000000000707070707070707
0707070707070707030000000b00000000000000000000000000000000000000
0000000000000000000000000000000002000000000000000000000000000000
0200000000000000d20400000000000001000000000000000000000000000000
06706c61636573";

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn record_bytes() {
    let (mut batch, payload) = (Vec::new(), payload(9, 5));
    codec::encode(&mut batch, &record(9, &payload), crc32c::crc32c(&payload));
    let checksum = codec::finish(&mut batch, 0x1_0203_0405, OURS.seed(), 0x0a0b_0c0d, 0x0102_0304_0506_0708);
    assert_eq!(hex(&batch), RECORD);
    assert_eq!(codec::decode(&batch, 0x1_0203_0405, OURS.seed()).map(|head| head.checksum), checksum);
}

#[test]
fn segment_bytes() {
    let last = Some(Stamp { version: version(1999), time_ns: 0x1112_1314_1516_1718 });
    let before = End { position: 2 * SMALL - 8, last, checksum: 0x2122_2324 };
    let header = Header { identity: OURS, number: 2, segment_bytes: SMALL, before, low: 1 };
    let page = header.encode();
    assert_eq!(hex(&page[..128]), SEGMENT);
    assert!(page.len() == 4096 && page[104..].iter().all(|&byte| byte == 0));
    assert_eq!(Header::decode("a file", 2, &page).unwrap(), header);
}

#[test]
fn index_bytes() {
    let disk = SimDisk::new(1);
    let entry = |n: u64| index::Entry {
        stamp: Stamp { version: version(n), time_ns: n << 40 },
        offset: 4096 * n,
        previous: 0x3132_3334,
    };
    Index::write(&disk, 3, OURS.seed(), 0x4142_4344, &[entry(1), entry(2)]).unwrap();
    assert_eq!(hex(&disk.bytes("0000000000000003.index").unwrap()), INDEX);
}

#[test]
fn bytes_of_a_blob_a_checkpoint_and_the_marks() {
    let disk = SimDisk::new(1);
    let mut store = open_sized(&disk, SMALL).unwrap();
    store.save("places", b"the bytes").unwrap();
    let mut checkpoint = store.snapshot(version(1234), 0x5152_5354_5556_5758).unwrap();
    checkpoint.write(b"the state").unwrap();
    store.install(checkpoint).unwrap();
    let bytes = |name: &str| hex(&disk.bytes(name).unwrap());
    assert_eq!(bytes("places.blob"), BLOB);
    assert_eq!(bytes("0000000000000002-00000000000004d2.snapshot"), CHECKPOINT);
    assert_eq!(bytes("marks"), MARKS);
}
