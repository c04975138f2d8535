//! Network outages that are written down instead of drawn: packets are lost, and no connection is broken by the test.

use crate::run::Run;
use crate::schedule::{Planned, Setup, Step, Target, When};
use std::path::Path;

/// Sets up three founders over tcp. They wait long for a majority, so that a member that waits in vain is noticed.
fn setup(has_log: bool) -> Setup {
    let drawn = Setup::draw(1, Some("tcp"));
    let habits = crate::member::Habits { slow: 0, has_log, ..drawn.habits };
    Setup {
        has_log,
        founders: 3,
        spares: 0,
        ring_bytes: 1 << 16,
        largest: 4096,
        failure_ms: 1500,
        partition_ms: 60_000,
        durable_members: 0,
        habits,
        ..drawn
    }
}

/// Runs a group, applies all `steps` to it at once, and checks that it is whole afterwards.
fn play(name: &str, has_log: bool, steps: &[(u32, Step)], check: impl Fn(&Run) + Sync) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{name}-{}", std::process::id()));
    // A separate thread, because a run has its own mounts.
    std::thread::scope(|scope| {
        let play = scope.spawn(|| {
            let mut run = Run::new(setup(has_log), folder.clone());
            assert!(run.settle("the founding"), "all is kept in {}: {:?}", folder.display(), run.problems);
            let at_once = |&(id, step)| Planned { when: When::At(0), target: Target::Id(id), step };
            run.plan_round(steps.iter().map(at_once).collect());
            let whole = run.settle("the outage");
            let (_, problems) = run.end(whole);
            assert!(problems.is_empty(), "all is kept in {}\n{}", folder.display(), problems.join("\n"));
            check(&run);
        });
        if let Err(panic) = play.join() {
            std::panic::resume_unwind(panic);
        }
    });
    // The mounts ended with the thread.
    std::fs::remove_dir_all(&folder).unwrap();
}

const CUT_MS: u64 = 8000;
const NOTHING: Step = Step::Isolate { mute: true, deaf: true, ms: CUT_MS };

/// All packets are lost for so long that TCP tries again only many seconds later. The same members go on.
#[test]
fn an_outage_of_the_whole_network_changes_no_membership() {
    for has_log in [false, true] {
        play("outage", has_log, &[(1, NOTHING), (2, NOTHING), (3, NOTHING)], |run| {
            assert!(run.ends.is_empty(), "{:?}", run.ends);
            assert!(run.places.iter().all(|place| place.lives == 1), "a process was started again");
        });
    }
}

/// A member is cut off while the others go on without it. When the network is back, a peer informs it, and it does not
/// wait for a majority that it cannot reach any more.
#[test]
fn a_member_without_which_the_others_went_on_is_told_so() {
    for has_log in [false, true] {
        play("told", has_log, &[(3, NOTHING)], |run| {
            let ends: Vec<_> = run.ends.iter().map(|(process, end)| (process.id, process.life, end.as_str())).collect();
            assert!(matches!(ends[..], [(3, 1, end)] if end.starts_with("stopped Removed")), "{ends:?}");
        });
    }
}
