//! Calls of this process that break the contract of the fabric.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Each call panics, and the fabric goes on as if it had not been called.
pub(crate) fn bad_ranges_panic_and_harm_nothing<H: Harness>() {
    let (mut harness, mut members) = H::cluster(2, &[table(1, 4096)]);
    let end = COLUMNS + 4096;
    let backwards = Range { start: 64, end: 8 };
    let bad = [
        ("behind the row", end..end + 8, Source::Stable),
        ("over the end of the row", end - 8..end + 8, Source::Stable),
        ("far out", usize::MAX - 15..usize::MAX - 7, Source::Stable),
        ("backwards", backwards, Source::Stable),
        ("start not aligned", COLUMNS + 4..COLUMNS + 16, Source::Stable),
        ("end not aligned", COLUMNS..COLUMNS + 12, Source::Stable),
        ("over the end of the columns", COLUMNS - 8..COLUMNS + 8, Source::Stable),
        ("snapshot too large", 0..SNAPSHOT_MAX + 8, Source::Snapshot),
    ];
    for (what, range, source) in bad {
        let me = &mut members[0];
        let refused = catch_unwind(AssertUnwindSafe(|| me.write(1, range, source))).is_err();
        assert!(refused, "a write {what} was taken");
    }
    let mut posted = false;
    let writer = move |me: &mut Endpoint| {
        if !std::mem::replace(&mut posted, true) {
            for range in [end - 8..end, COLUMNS..COLUMNS + 8, COLUMNS - 8..COLUMNS] {
                fill(me.own(), range.clone(), 5);
                me.write(1, range, Source::Stable);
            }
            me.announce(&[1], 0, 1);
        }
        true
    };
    let reader = |me: &mut Endpoint| me.sees(0, 0) == 1;
    run(&mut harness, &mut members, vec![Box::new(writer), Box::new(reader)]);
    for range in [end - 8..end, COLUMNS..COLUMNS + 8, COLUMNS - 8..COLUMNS] {
        assert_filled(members[1].row(0), range, 5);
    }
    members.iter().for_each(Endpoint::no_breach);
}

/// Each call panics, and the fabric goes on.
pub(crate) fn bad_fetches_panic_and_harm_nothing<H: Harness>() {
    let (mut harness, mut members) = H::cluster(2, &[table(1, 4096)]);
    let end = COLUMNS + 4096;
    let bad = [
        ("of columns", 1, 0..8),
        ("over the end of the columns", 1, COLUMNS - 8..COLUMNS + 8),
        ("over the end of the row", 1, end - 8..end + 8),
        ("far out", 1, usize::MAX - 15..usize::MAX - 7),
        ("of nothing", 1, COLUMNS..COLUMNS),
        ("start not aligned", 1, COLUMNS + 4..COLUMNS + 16),
        ("end not aligned", 1, COLUMNS..COLUMNS + 12),
        ("of the own row", 0, COLUMNS..end),
        ("of nobody's row", 2, COLUMNS..end),
    ];
    for (what, owner, range) in bad {
        let me = &mut members[0];
        let refused = catch_unwind(AssertUnwindSafe(|| me.fetch(1, owner, range))).is_err();
        assert!(refused, "a fetch {what} was taken");
    }
    members[0].fetch(1, 1, COLUMNS..end);
    let fetcher = |me: &mut Endpoint| me.fetched(1).len() == 1;
    run(&mut harness, &mut members, vec![Box::new(fetcher), idle()]);
    members.iter().for_each(Endpoint::no_breach);
}
