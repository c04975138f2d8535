//! The number of pages that a lookup reads.

use super::*;
use crate::log::source::touched;
use crate::simulation::rng::Rng;

/// The most pages that one lookup may read in a log of a million records.
const PAGES_MAX: usize = 40;

#[test]
fn a_lookup_among_a_million_records_touches_few_pages() {
    const RECORDS: u64 = 1_000_000;
    let disk = SimDisk::new(1);
    let mut store = open_sized(&disk, 8 << 20).unwrap();
    let record = |n: u64| Record { version: version(n), time_ns: 1000 + 10 * n, ..record(n, b"12345678") };
    for first in (0..RECORDS).step_by(10_000) {
        let records: Vec<_> = (first..first + 10_000).map(record).collect();
        store.append(&records).unwrap();
        store.sync().unwrap();
    }
    drop(store);
    assert!(segments(&disk).len() > 8);
    let reader = open_sized(&disk, 8 << 20).unwrap().reader();
    // The first lookup in a segment opens its index.
    let (mut rng, mut most) = (Rng::new(1), 0);
    for _ in 0..300 {
        let n = rng.next() % RECORDS;
        let lookups: [&dyn Fn() -> Version; 3] = [
            &|| reader.get(version(n)).unwrap().unwrap().version(),
            &|| reader.first_at_or_after(version(n)).unwrap().unwrap().version(),
            &|| reader.at_time(1005 + 10 * n).unwrap().unwrap().version(),
        ];
        for lookup in lookups {
            let (found, pages) = touched::pages(lookup);
            assert_eq!(found, version(n));
            most = most.max(pages);
        }
    }
    println!("at most {most} pages for a lookup among {RECORDS} records");
    assert!(most <= PAGES_MAX, "{most}");
}
