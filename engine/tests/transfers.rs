//! The state transfer to a joiner: sources and applications that end, fail or take long.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use galerna::{Config, Delivery, Error, FabricKind, Group, Handler, Member, MemberId, Mode, SubgroupId};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
const STATE: &[u8] = b"the state";

/// The behaviour of an application in `snapshot` and `restore`, and its counters.
#[derive(Default)]
struct Plan {
    /// `snapshot` fails.
    no_snapshot: bool,
    /// Reading the state fails.
    unreadable: AtomicBool,
    /// The state never ends, and gives no byte after the first piece.
    hangs: AtomicBool,
    /// The minimum size of the state, in bytes.
    padding: usize,
    /// `restore` waits so long before it reads.
    pause: Duration,
    /// `restore` fails.
    no_restore: bool,
    snapshots: AtomicUsize,
    /// The number of pieces of the state that were read.
    reads: AtomicUsize,
    restores: AtomicUsize,
    restored: Mutex<Vec<u8>>,
}

struct State(Arc<Plan>, io::Cursor<Vec<u8>>);

impl Read for State {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.reads.fetch_add(1, Ordering::SeqCst) > 0 && self.0.unreadable.load(Ordering::SeqCst) {
            return Err(io::Error::other("its file is gone"));
        }
        while self.0.hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.1.read(into)
    }
}

struct App(Arc<Plan>);

impl Handler for App {
    fn deliver(&mut self, _: Delivery<'_>) {}

    fn snapshot(&mut self) -> io::Result<Box<dyn Read + Send>> {
        self.0.snapshots.fetch_add(1, Ordering::SeqCst);
        if self.0.no_snapshot {
            return Err(io::Error::other("no snapshot today"));
        }
        let mut bytes = STATE.to_vec();
        bytes.resize(bytes.len().max(self.0.padding), 0);
        Ok(Box::new(State(self.0.clone(), io::Cursor::new(bytes))))
    }

    fn restore(&mut self, state: &mut dyn Read) -> io::Result<()> {
        self.0.restores.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.0.pause);
        if self.0.no_restore {
            return Err(io::Error::other("no room for the state"));
        }
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes)?;
        *self.0.restored.lock().unwrap() = bytes;
        Ok(())
    }
}

/// Starts founders with these plans.
fn found(fabric: FabricKind, plans: &[Arc<Plan>]) -> (Config, Vec<Group>) {
    let addresses = (1..).zip(common::addresses(fabric, plans.len() as u32));
    let members = addresses.map(|(id, address)| Member { id: MemberId(id), address }).collect();
    let config = Config::new("transfers", fabric, members);
    let config = Config { join_timeout_ms: 45_000, verbs: common::patient_verbs(), ..config };
    let started: Vec<_> = (1..)
        .zip(plans)
        .map(|(id, plan)| {
            let (config, app) = (config.clone().with_member(MemberId(id)), App(plan.clone()));
            std::thread::spawn(move || Group::join(config, app).unwrap())
        })
        .collect();
    (config, started.into_iter().map(|started| started.join().unwrap()).collect())
}

fn join(config: &Config, plan: &Arc<Plan>) -> Result<Group, Error> {
    let address = common::addresses(config.fabric, 1).pop();
    Group::join(Config { address, ..config.clone() }.with_member(MemberId(9)), App(plan.clone()))
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

/// The source's stream stays open, as if its host had gone: only the view shows that the transfer will not go on.
#[test]
fn a_view_without_the_source_ends_its_transfer() {
    // A member that has not begun the joiner's first view yet is not asked first.
    assert!((0..20).any(|_| a_source_that_hangs_is_asked()), "the last member is never asked first");
}

/// Returns false if the joiner has taken the state from another member.
fn a_source_that_hangs_is_asked() -> bool {
    let plans: [Arc<Plan>; 3] = Default::default();
    let (config, mut members) = found(FabricKind::Tcp, &plans);
    plans[2].hangs.store(true, Ordering::SeqCst);
    let plan = Arc::new(Plan::default());
    let (own, of_joiner) = (config.clone(), plan.clone());
    let joins = std::thread::spawn(move || join(&own, &of_joiner));
    wait_for("the transfer", || count(&plans[2].reads) > 0 || joins.is_finished());
    let asked = count(&plans[2].reads) > 0;
    if asked {
        drop(members.pop());
    }
    let joined = joins.join().unwrap().unwrap();
    assert_eq!(*plan.restored.lock().unwrap(), STATE);
    if asked {
        assert_eq!(joined.view().members, [1, 2, 9].map(MemberId));
    }
    plans[2].hangs.store(false, Ordering::SeqCst);
    asked
}

/// More than sockets buffer, so the source waits as well.
#[test]
fn a_restore_that_pauses_is_waited_for() {
    let plans = [Arc::new(Plan { padding: 48 << 20, ..Plan::default() })];
    let (config, _members) = found(FabricKind::Tcp, &plans);
    let plan = Arc::new(Plan { pause: Duration::from_secs(17), ..Plan::default() });
    join(&config, &plan).unwrap();
    assert_eq!((count(&plans[0].snapshots), count(&plan.restores)), (1, 1));
    assert_eq!(plan.restored.lock().unwrap().len(), 48 << 20);
}

#[test]
fn a_restore_that_fails_is_final_and_both_ends_say_why() {
    let plans: [Arc<Plan>; 2] = Default::default();
    let (config, members) = found(FabricKind::Tcp, &plans);
    let plan = Arc::new(Plan { no_restore: true, ..Plan::default() });
    let begin = Instant::now();
    let error = join(&config, &plan).err().unwrap();
    assert!(begin.elapsed() < Duration::from_millis(config.join_timeout_ms), "it is said at once");
    let text = error.to_string();
    assert!(matches!(error, Error::StateTransfer(_)), "{text}");
    // The second member is asked first, or the other one if the second has not begun the view yet.
    let source = members.iter().zip(1..).find(|(_, id)| text.contains(&format!("from member {id} ")));
    let (source, _) = source.unwrap_or_else(|| panic!("no source is named: {text}"));
    assert!(text.contains("no room for the state"), "{text}");
    assert_eq!(count(&plan.restores), 1);
    wait_for("the source's word", || {
        source.fault(MemberId(9)).is_some_and(|what| what.contains("no room for the state"))
    });
    wait_for("the view without it", || members.iter().all(|member| member.view().members.len() == 2));
}

#[test]
fn a_snapshot_that_fails_is_asked_for_once() {
    let fails = || Arc::new(Plan { no_snapshot: true, ..Plan::default() });
    // `snapshot` fails at one of them: the next one is asked.
    let plans = [Arc::default(), fails()];
    let (config, members) = found(FabricKind::Tcp, &plans);
    let joined = (0..10).find_map(|_| {
        let plan = Arc::default();
        let joined = join(&config, &plan).unwrap();
        assert_eq!(*plan.restored.lock().unwrap(), STATE);
        if count(&plans[1].snapshots) > 0 {
            return Some(joined);
        }
        // On a busy machine the preferred source may not have begun the view yet; then the other one is asked.
        drop(joined);
        wait_for("the view without it", || members.iter().all(|member| member.view().members.len() == 2));
        None
    });
    assert!(joined.is_some(), "the second one was never asked");
    assert_eq!(count(&plans[1].snapshots), 1);
    let own = members[1].fault(MemberId(2));
    assert!(own.as_ref().is_some_and(|what| what.contains("no snapshot today")), "{own:?}");
    drop((joined, members));
    // `snapshot` fails at all of them.
    let plans = [fails(), fails()];
    let (config, members) = found(FabricKind::Tcp, &plans);
    let text = join(&config, &Arc::default()).err().unwrap().to_string();
    let names_one = ["from member 1 ", "from member 2 "].iter().any(|source| text.contains(source));
    assert!(text.contains("no snapshot today") && names_one, "{text}");
    assert!(plans.iter().all(|plan| count(&plan.snapshots) == 1));
    wait_for("the view without it", || members.iter().all(|member| member.view().members.len() == 2));
}

#[test]
fn a_state_that_cannot_be_read_is_taken_elsewhere() {
    common::fabrics().into_iter().for_each(unreadable);
}

fn unreadable(fabric: FabricKind) {
    let plans = [Arc::default(), Arc::new(Plan { padding: 1 << 20, ..Plan::default() })];
    let (config, members) = found(fabric, &plans);
    plans[1].unreadable.store(true, Ordering::SeqCst);
    let plan = Arc::default();
    let joined = join(&config, &plan).unwrap();
    assert_eq!(*plan.restored.lock().unwrap(), STATE);
    // It is not asked first if it was the last to begin the view.
    let asked = count(&plans[1].snapshots);
    assert!(asked <= 1, "{fabric}: {asked}");
    let said = || members[1].fault(MemberId(2)).is_some_and(|what| what.contains("its file is gone"));
    wait_for("the source's word", || asked == 0 || said());
    joined.send(SubgroupId(0), Mode::Safe, b"x", LONG).unwrap();
    joined.flush(SubgroupId(0), galerna::Copies::All, LONG).unwrap();
}
