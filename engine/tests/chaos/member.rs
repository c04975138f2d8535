//! The process of a member. Several threads send all the time, every event is recorded (see `record.rs`), and commands
//! come on the standard input. It prints its progress for the runner on the standard output:
//!
//! `@view number members`, `@restoring`, `@restored`, `@joined view`, `@idle count` (every message accepted so far is
//! delivered here), `@report view count sum own`, `@left`, `@ended how error`.

use crate::outbox::Outbox;
use crate::record::{Message, Process, Record, Restored, Sender, State, Tag, ViewRecord};
use crate::rng::Rng;
use crate::trace::Stderr;
use galerna::{Config, Delivery, Error, Group, Handler, MemberId, Mode, SubgroupId, View};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) const MEMBER: &str = "GALERNA_CHAOS_MEMBER";
pub(crate) const MAIN: SubgroupId = SubgroupId(0);
/// The time limit of a leave, a flush, a persist or a checkpoint.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);
/// Milliseconds of the host's monotonic clock, which is the same in all processes even if their wall clocks differ.
pub(crate) fn now_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| now.tv_sec() as u64 * 1000 + now.tv_nsec() as u64 / 1_000_000)
}

/// The clock that gives the engine's trace events their time.
pub(crate) struct Clock;

impl Clock {
    pub(crate) fn ms(&self) -> u64 {
        now_ms()
    }
}

/// Behaviour of all members of a run, drawn once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Habits {
    pub(crate) threads: u32,
    /// The average time between two messages of a thread, in microseconds.
    pub(crate) pause_us: u64,
    /// Of a thousand callbacks, `slow` take `slow_ms` milliseconds each.
    pub(crate) slow: usize,
    pub(crate) slow_ms: u64,
    /// Bytes of the application's state in addition to its counters.
    pub(crate) state_bytes: usize,
    /// The minimum duration of a `restore`, in milliseconds.
    pub(crate) restore_ms: u64,
    pub(crate) has_log: bool,
}

impl Habits {
    fn encode(&self) -> String {
        let Habits { threads, pause_us, slow, slow_ms, state_bytes, restore_ms, has_log } = self;
        format!("{threads} {pause_us} {slow} {slow_ms} {state_bytes} {restore_ms} {}", u8::from(*has_log))
    }

    fn decode(text: &str) -> Option<Habits> {
        let n: Vec<u64> = text.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let [threads, pause_us, slow, slow_ms, state_bytes, restore_ms, has_log] = n[..] else { return None };
        let (threads, slow, state_bytes) = (threads as u32, slow as usize, state_bytes as usize);
        Some(Habits { threads, pause_us, slow, slow_ms, state_bytes, restore_ms, has_log: has_log == 1 })
    }
}

/// Identifies a process as a life of a member, and gives its seed, its habits and its folder.
#[derive(Clone)]
pub(crate) struct Role {
    pub(crate) process: Process,
    pub(crate) seed: u64,
    pub(crate) habits: Habits,
    pub(crate) folder: PathBuf,
}

impl Role {
    pub(crate) fn encode(&self) -> String {
        format!("{}|{}|{}|{}", self.process, self.seed, self.habits.encode(), self.folder.display())
    }

    fn decode(text: &str) -> Option<Role> {
        let mut parts = text.splitn(4, '|');
        let (process, seed) = (Process::parse(parts.next()?)?, parts.next()?.parse().ok()?);
        Some(Role { process, seed, habits: Habits::decode(parts.next()?)?, folder: PathBuf::from(parts.next()?) })
    }

    pub(crate) fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("member-{}.{kind}", self.process))
    }
}

pub(crate) fn config_file(folder: &Path, id: u32) -> PathBuf {
    folder.join(format!("member-{id}.toml"))
}

/// The file of the process's records.
pub(crate) struct Book {
    file: File,
    /// The record of the process's end is written.
    ended: AtomicBool,
}

impl Book {
    pub(crate) fn write(&self, record: &Record) {
        // A single write: a killed process leaves complete lines, except perhaps the last one.
        (&self.file).write_all(format!("{} {record}\n", now_ms()).as_bytes()).unwrap();
        if matches!(record, Record::End { .. }) {
            self.ended.store(true, Ordering::SeqCst);
        }
    }
}

/// The application's state.
#[derive(Default)]
struct App {
    state: State,
    view: u64,
    /// For each sender, the number of its next message.
    next: BTreeMap<Sender, u64>,
}

impl App {
    /// Returns the sender of a message. A message without a tag is from thread 0 of the sender's latest life, since
    /// each life begins with a tagged message.
    fn sender_of(&self, id: u32, tag: Option<Tag>) -> Sender {
        match tag {
            Some(Tag { life, thread, .. }) => (Process { id, life }, thread),
            None => {
                let lives = self.next.keys().filter(|(process, thread)| process.id == id && *thread == 0);
                lives.max().copied().unwrap_or((Process { id, life: 0 }, 0))
            }
        }
    }

    /// Returns a reader that makes the state piece by piece, so that the `snapshot` callback is short for a state of
    /// any size.
    fn encode(&self, padding: usize) -> impl Read + Send + use<> {
        let mut words = vec![self.state.count, self.state.sum, self.next.len() as u64];
        for (&(Process { id, life }, thread), &next) in &self.next {
            words.extend([u64::from(id), u64::from(life), u64::from(thread), next]);
        }
        let head: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        io::Cursor::new(head).chain(io::repeat(self.state.sum as u8).take(padding as u64))
    }

    fn decode(bytes: &[u8]) -> Option<App> {
        let (head, rest) = bytes.split_at_checked(24)?;
        let words = |bytes: &[u8]| -> Vec<u64> {
            bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let [count, sum, entries] = words(head)[..] else { return None };
        let (next, padding) = rest.split_at_checked(usize::try_from(entries).ok()?.checked_mul(32)?)?;
        let entry = |n: &[u64]| ((Process { id: n[0] as u32, life: n[1] as u32 }, n[2] as u32), n[3]);
        let next = words(next).chunks_exact(4).map(entry).collect();
        padding.iter().all(|&byte| byte == sum as u8).then_some(App { state: State { count, sum }, view: 0, next })
    }
}

struct Recorder {
    book: Arc<Book>,
    app: Arc<Mutex<App>>,
    habits: Habits,
    rng: Rng,
    /// `has_view`: the process has entered a view. `replays`: it was delivered messages of earlier views from its log.
    has_view: bool,
    replays: bool,
}

fn ids(members: &[MemberId]) -> Vec<u32> {
    members.iter().map(|id| id.0).collect()
}

pub(crate) fn letter(mode: Mode) -> char {
    match mode {
        Mode::Fifo => 'f',
        Mode::Ordered => 'o',
        Mode::Safe => 's',
        Mode::Durable => 'd',
    }
}

impl Handler for Recorder {
    fn deliver(&mut self, message: Delivery<'_>) {
        let (place, payload) = ((message.view, message.sequence), message.payload);
        let (crc, tag) = (crc32c::crc32c(payload), Tag::of(payload));
        if !self.has_view && !std::mem::replace(&mut self.replays, true) {
            println!("@restoring");
        }
        let (sender, mode, len) = (message.sender.0, letter(message.mode), payload.len() as u32);
        self.book.write(&Record::Delivery { place, message: Message { sender, mode, len, crc, tag } });
        let mut app = self.app.lock().unwrap();
        app.state.add(place, crc);
        let from = app.sender_of(sender, tag);
        *app.next.entry(from).or_default() += 1;
        drop(app);
        if self.rng.below(1000) < self.habits.slow {
            std::thread::sleep(Duration::from_millis(self.habits.slow_ms));
        }
    }

    fn view(&mut self, view: &View) {
        if !std::mem::replace(&mut self.has_view, true) && self.replays {
            println!("@restored");
        }
        let mut app = self.app.lock().unwrap();
        app.view = view.number;
        let state = app.state;
        drop(app);
        let number = view.number;
        let [members, joined, left, failed] =
            [&view.members, &view.joined, &view.left, &view.failed].map(|members| ids(members));
        let voters = voters(view);
        let shown = members.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        self.book.write(&Record::View(Box::new(ViewRecord { number, members, voters, joined, left, failed, state })));
        println!("@view {number} {shown}");
    }

    fn suspected(&mut self, member: MemberId, what: &str) {
        self.book.write(&Record::Suspected { member: member.0, text: what.to_owned() });
    }

    fn durable(&mut self, below: u64) {
        self.book.write(&Record::Durable { below });
    }

    fn stopped(&mut self, reason: &Error) {
        end(&self.book, "stopped", reason);
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn Read + Send>> {
        println!("@snapshot");
        Ok(Box::new(self.app.lock().unwrap().encode(self.habits.state_bytes)))
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        println!("@restoring");
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        std::thread::sleep(Duration::from_millis(self.habits.restore_ms));
        let mut app = App::decode(&bytes).ok_or_else(|| io::Error::other("a malformed state"))?;
        let mut own = self.app.lock().unwrap();
        app.view = own.view;
        let next = app.next.iter().map(|(sender, next)| (*sender, *next)).collect();
        self.book.write(&Record::Restored(Box::new(Restored { state: app.state, next })));
        *own = app;
        println!("@restored");
        Ok(())
    }
}

/// The members of a view that vote.
fn voters(view: &View) -> Option<Vec<u32>> {
    Some(ids(&view.voters))
}

pub(crate) fn kind(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

fn end(book: &Book, how: &str, error: &Error) {
    let (how, error, text) = (how.to_owned(), kind(error), error.to_string());
    book.write(&Record::End { how, error, text });
}

/// Reads the commands from the standard input. It ends with the test, and this process exits then.
fn commands() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let _ = sender.send(line.unwrap());
        }
        std::process::exit(3);
    });
    receiver
}

pub(crate) fn run(role: &str) {
    let role = Role::decode(role).unwrap();
    // The kernel kills this process when its parent ends, even if this process is stopped or the test itself is killed.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    tracing::subscriber::set_global_default(Stderr(Clock)).unwrap();
    let commands = commands();
    let config = Config::from_file(config_file(&role.folder, role.process.id)).unwrap();
    let app = Arc::new(Mutex::new(App::default()));
    let file = File::options().create(true).append(true).open(role.file("records")).unwrap();
    let book = Arc::new(Book { file, ended: AtomicBool::new(false) });
    book.write(&Record::Begin { pid: std::process::id() });
    let (habits, rng) = (role.habits, Rng::new(role.seed));
    let recorder = Recorder { book: book.clone(), app: app.clone(), habits, rng, has_view: false, replays: false };
    let group = match Group::join(config, recorder) {
        Ok(group) => group,
        Err(error) => {
            end(&book, "join", &error);
            return println!("@ended join {} {error}", kind(&error));
        }
    };
    let view = group.view().number;
    book.write(&Record::Joined { view });
    println!("@joined {view}");
    let threads = role.habits.threads;
    let shared = Shared { role, group, app, book, quiet: AtomicBool::new(false), idle: AtomicUsize::new(0) };
    let shared = Arc::new(shared);
    for thread in 0..threads {
        let shared = shared.clone();
        std::thread::spawn(move || Outbox::new(shared, thread).run());
    }
    shared.serve(&commands);
}

/// State that the threads of a process share.
pub(crate) struct Shared {
    pub(crate) role: Role,
    pub(crate) group: Group,
    app: Arc<Mutex<App>>,
    pub(crate) book: Arc<Book>,
    /// No more messages are to be sent.
    pub(crate) quiet: AtomicBool,
    /// The number of threads that have ended their sending.
    pub(crate) idle: AtomicUsize,
}

impl Shared {
    fn serve(&self, commands: &Receiver<String>) {
        loop {
            match commands.recv_timeout(LOOK) {
                Ok(command) if !self.obey(&command) => return,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.note_closed();
            if let Some(reason) = self.group.stopped() {
                // The callback records the reason a moment later.
                let until = Instant::now() + PATIENCE;
                while !self.book.ended.load(Ordering::SeqCst) && Instant::now() < until {
                    std::thread::sleep(LOOK);
                }
                return println!("@ended stopped {} {reason}", kind(&reason));
            }
        }
    }

    /// Records the closed time, and the last record of the process's own log up to it.
    fn note_closed(&self) {
        if !self.role.habits.has_log {
            return;
        }
        let Ok(frontiers) = self.group.frontiers(MAIN) else { return };
        let time_ns = frontiers.closed_ns;
        let Some(reader) = self.group.read_log(MAIN).ok().filter(|_| time_ns > 0) else { return };
        match reader.at_time(time_ns) {
            Ok(last) => {
                let last = last.map(|entry| (entry.version().view, entry.version().sequence));
                self.book.write(&Record::Closed { time_ns, last });
            }
            Err(error) => println!("@log {} {error}", kind(&error)),
        }
    }

    /// Carries out a command. Returns false when this process is to end.
    fn obey(&self, command: &str) -> bool {
        match command {
            "leave" => {
                self.quiet.store(true, Ordering::SeqCst);
                match self.group.leave(PATIENCE) {
                    Ok(()) => {
                        let (how, error, text) = ("left".to_owned(), "-".to_owned(), "-".to_owned());
                        self.book.write(&Record::End { how, error, text });
                        println!("@left");
                    }
                    Err(error) => {
                        end(&self.book, "leave", &error);
                        println!("@ended leave {} {error}", kind(&error));
                    }
                }
                return false;
            }
            "quiet" => self.quiet.store(true, Ordering::SeqCst),
            "report" => {
                let idle = self.idle.load(Ordering::SeqCst) == self.role.habits.threads as usize;
                let app = self.app.lock().unwrap();
                let State { count, sum } = app.state;
                let own = app.next.iter().filter(|((process, _), _)| *process == self.role.process);
                let own: u64 = own.map(|(_, next)| next).sum();
                println!("@report {} {count} {sum:x} {own} {}", app.view, if idle { "idle" } else { "busy" });
            }
            "checkpoint" => self.checkpoint(),
            other => println!("@what {other}"),
        }
        true
    }

    /// Takes a checkpoint in a separate thread, because the call waits.
    fn checkpoint(&self) {
        let group = self.group.clone();
        std::thread::spawn(move || match group.checkpoint(MAIN, PATIENCE) {
            Ok(version) => {
                let trimmed = group.trim_log(MAIN, version);
                println!("@checkpoint {version} {}", trimmed.map_or_else(|e| kind(&e), |()| "trimmed".to_owned()));
            }
            Err(error) => println!("@checkpoint {}", kind(&error)),
        });
    }
}
