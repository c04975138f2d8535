//! Rows that get new memory, on fabrics that share them.

use super::*;

const FIRST: usize = 0;
const SECOND: usize = 64;
const DATA: Range<usize> = COLUMNS..COLUMNS + 4096;

fn store(me: &Endpoint, offset: usize, value: u64) {
    me.own().word(offset).store(value, Ordering::Release);
}

/// Gives the row of the first table new memory, as if a process that was never attached here had departed.
fn renew(me: &mut Endpoint, epoch: u64) {
    let row = me.fabric.renew(me.specs[0].id, epoch, &[SLOTS - 2]).unwrap().unwrap();
    let rank = me.rank;
    me.rows[rank][0] = row;
}

/// Asks for the new memory of a row of the first table, until it is there; it may come late.
fn renewed(members: &mut [Endpoint], (at, peer): (usize, Rank), epoch: u64) -> Option<Arc<Row>> {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        let me = &mut members[at];
        match me.fabric.renewed(SLOT_OF[peer], me.specs[0].id, epoch) {
            Renewed::Same => return None,
            Renewed::New(row) => return Some(row),
            Renewed::Awaited => assert!(Instant::now() < deadline, "it does not come"),
        }
        members.iter_mut().for_each(|member| {
            member.poll();
        });
    }
}

/// The former memory does not change any more. The new one has the same columns, and each peer gets it when it asks.
pub(crate) fn a_row_gets_new_memory<H: Harness>() {
    let (mut harness, mut members) = H::cluster(3, &[table(1, 4096), table(2, 64)]);
    store(&members[0], FIRST, 1);
    if !H::SHARED {
        for at in 0..3 {
            assert!(matches!(members[at].fabric.renew(TableId(1), 7, &[SLOTS - 2]), Ok(None)));
            assert!((0..3).all(|peer| renewed(&mut members, (at, peer), 7).is_none()));
        }
        return;
    }
    fill(members[0].own(), DATA, 3);
    renew(&mut members[0], 7);
    assert_eq!(members[0].sees(0, FIRST), 1, "the columns are the same");
    assert!(DATA.step_by(8).all(|offset| members[0].sees(0, offset) == 0), "the data are zeros");
    store(&members[0], SECOND, 2);
    fill(members[0].own(), DATA, 4);
    settle(&mut harness, &mut members);
    for rank in [1, 2] {
        assert!(renewed(&mut members, (rank, 0), 6).is_none(), "an earlier epoch goes on in the former memory");
        let me = &mut members[rank];
        assert_eq!((me.sees(0, FIRST), me.sees(0, SECOND)), (1, 0));
        assert_filled(me.row(0), DATA, 3);
        let former = me.rows[0][0].clone();
        members[rank].rows[0][0] = renewed(&mut members, (rank, 0), 7).unwrap();
        let me = &mut members[rank];
        assert_eq!((me.sees(0, FIRST), me.sees(0, SECOND)), (1, 2));
        assert_filled(me.row(0), DATA, 4);
        assert_filled(&former, DATA, 3);
        me.no_breach();
        assert!([7, 8].iter().all(|&epoch| renewed(&mut members, (rank, 0), epoch).is_none()), "it has it");
    }
    // Two renewals without a poll in between: a peer that asks gets the newest memory.
    for epoch in [8, 9] {
        renew(&mut members[0], epoch);
        store(&members[0], SECOND, epoch);
    }
    members.iter_mut().for_each(|member| {
        member.poll();
    });
    members[1].rows[0][0] = renewed(&mut members, (1, 0), 8).unwrap();
    members[2].rows[0][0] = renewed(&mut members, (2, 0), 20).unwrap();
    assert_eq!((members[1].sees(0, SECOND), members[2].sees(0, SECOND)), (8, 9));
    members[1].rows[0][0] = renewed(&mut members, (1, 0), 9).unwrap();
    assert_eq!(members[1].sees(0, SECOND), 9);
    assert!(members.iter().all(|member| member.events.is_empty()));
}

/// A peer that attaches later gets the present memory, also if it had prepared its end of the link before the renewal.
pub(crate) fn who_comes_later_has_the_new_memory<H: Harness>() {
    if !H::SHARED {
        return;
    }
    for early in [false, true] {
        let mut harness = H::new(&[table(1, 4096)]);
        let mut members: Vec<Endpoint> = [0, 1].map(|rank| harness.process(SLOT_OF[rank])).into();
        let mut link = early.then(|| harness.link(SLOT_OF[0], SLOT_OF[1]));
        store(&members[0], FIRST, 1);
        renew(&mut members[0], 3);
        store(&members[0], SECOND, 2);
        let [mine, theirs] = link.take().unwrap_or_else(|| harness.link(SLOT_OF[0], SLOT_OF[1]));
        members[1].attach(0, theirs);
        members[0].attach(1, mine);
        settle(&mut harness, &mut members);
        if let Some(row) = renewed(&mut members, (1, 0), 3) {
            members[1].rows[0][0] = row;
        }
        assert_eq!((members[1].sees(0, FIRST), members[1].sees(0, SECOND)), (1, 2), "early: {early}");
        assert!(members.iter().all(|member| member.events.is_empty()));
    }
}

/// New memory that no peer has asked for yet is available after its owner has died, and after its owner was severed.
pub(crate) fn new_memory_outlives_the_link<H: Harness>() {
    if !H::SHARED {
        return;
    }
    for sever in [false, true] {
        let (mut harness, mut members) = H::cluster(2, &[table(1, 4096)]);
        renew(&mut members[0], 3);
        store(&members[0], SECOND, 2);
        if sever {
            members[1].sever(0);
            store(&members[0], SECOND, 4);
        } else {
            let dead = members.remove(0);
            harness.kill(dead);
            settle(&mut harness, &mut members);
        }
        let at = members.len() - 1;
        members[at].rows[0][0] = renewed(&mut members, (at, 0), 3).unwrap();
        assert_eq!(members[at].sees(0, SECOND), 2, "severed: {sever}");
    }
}

/// A process without a link to its peer knows that it lacks the peer's new memory, and gets it over the next link.
pub(crate) fn new_memory_that_was_missed_is_awaited<H: Harness>() {
    if !H::SHARED {
        return;
    }
    let (mut harness, mut members) = H::cluster(2, &[table(1, 4096), table(2, 64)]);
    members[1].sever(0);
    settle(&mut harness, &mut members);
    renew(&mut members[0], 3);
    store(&members[0], SECOND, 2);
    let me = &mut members[1];
    assert!(matches!(me.fabric.renewed(SLOT_OF[0], TableId(1), 2), Renewed::Same), "of an epoch before");
    assert!(matches!(me.fabric.renewed(SLOT_OF[0], TableId(1), 3), Renewed::Awaited));
    let [mine, theirs] = harness.link_again(SLOT_OF[0], SLOT_OF[1]);
    members[0].relink(1, mine);
    members[1].relink(0, theirs);
    settle(&mut harness, &mut members);
    members[1].rows[0][0] = renewed(&mut members, (1, 0), 3).unwrap();
    assert_eq!(members[1].sees(0, SECOND), 2);
}
