//! A member's process: sends at a steady pace, keeps a history of all it is told, does what its standard input says.
//!
//! The history is a file with a line per call of the handler, each written at once, so that a killed process leaves all:
//!
//! * `M view sequence mode sender life number`: a message
//! * `V number members joined left failed count state ms`: a view, and what the application's state was at its begin
//! * `R count state`: the state was taken from another member
//! * `G ...`: a message that is not the next one of its sender's life
//! * `S reason`: the group stopped here

use crate::trace::Stderr;
use galerna::{Config, Delivery, Error, Group, Handler, MemberId, Mode, SubgroupId, View};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) const MEMBER: &str = "GALERNA_CHAOS_MEMBER";
const MAIN: SubgroupId = SubgroupId(0);
const TICK: Duration = Duration::from_millis(10);
/// Messages per tick and member: two thousand a second in all.
const BURST: usize = 4;
/// How long a member that leaves, or sends its last message, may need.
const PATIENCE: Duration = Duration::from_secs(20);
/// What every other state weighs beside its numbers: its transfer takes a while, that of the others none.
const PADDING_BYTES: usize = 2 << 20;

/// Milliseconds since the test began, in all of its processes.
#[derive(Clone, Copy)]
pub(crate) struct Clock(pub(crate) u64);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
    }

    pub(crate) fn ms(self) -> u64 {
        Clock::start().0.saturating_sub(self.0)
    }
}

/// Which life of which member a process is, and where its files are.
pub(crate) struct Role {
    pub(crate) id: u32,
    pub(crate) life: u32,
    pub(crate) clock: Clock,
    pub(crate) folder: PathBuf,
}

impl Role {
    pub(crate) fn encode(&self) -> String {
        format!("{} {} {} {}", self.id, self.life, self.clock.0, self.folder.display())
    }

    fn decode(text: &str) -> Option<Role> {
        let mut parts = text.splitn(4, ' ');
        let (id, life) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Role { id, life, clock: Clock(parts.next()?.parse().ok()?), folder: PathBuf::from(parts.next()?) })
    }

    pub(crate) fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("member-{}.{}.{kind}", self.id, self.life))
    }
}

/// The application's state.
#[derive(Default)]
struct Past {
    count: u64,
    /// Of the messages that have a place in the order, which `fifo` ones may leave.
    digest: u64,
    /// By sender and its life, the number of the next message.
    next: BTreeMap<(u32, u32), u64>,
    restored: bool,
    view: u64,
}

fn mix(digest: u64, words: &[u64]) -> u64 {
    words.iter().fold(digest, |digest, word| {
        let mixed = (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    })
}

impl Past {
    fn state(&self) -> String {
        let all = self
            .next
            .iter()
            .fold(self.digest, |d, (&(id, life), &next)| mix(d, &[u64::from(id), u64::from(life), next]));
        format!("{} {all:016x}", self.count)
    }

    fn padding(&self) -> usize {
        if self.count.is_multiple_of(2) { PADDING_BYTES } else { 0 }
    }

    fn encode(&self) -> Vec<u8> {
        let mut words = vec![self.count, self.digest, self.next.len() as u64];
        for (&(id, life), &next) in &self.next {
            words.extend([u64::from(id), u64::from(life), next]);
        }
        words.resize(words.len() + self.padding() / 8, self.digest);
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Past> {
        let words: Vec<u64> = bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
        let (&count, &digest, &entries) = (words.first()?, words.get(1)?, words.get(2)?);
        let (next, padding) = words[3..].split_at_checked(3 * usize::try_from(entries).ok()?)?;
        let next = next.chunks_exact(3).map(|n| ((n[0] as u32, n[1] as u32), n[2])).collect();
        let past = Past { count, digest, next, restored: true, view: 0 };
        let whole = padding.len() == past.padding() / 8 && padding.iter().all(|&word| word == digest);
        whole.then_some(past)
    }
}

struct Recorder {
    past: Arc<Mutex<Past>>,
    history: File,
    clock: Clock,
}

impl Recorder {
    fn write(&mut self, line: &str) {
        self.history.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

fn list(ids: &[MemberId]) -> String {
    let ids: Vec<String> = ids.iter().map(MemberId::to_string).collect();
    if ids.is_empty() { "-".to_owned() } else { ids.join(",") }
}

fn payload(id: u32, life: u32, number: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&id.to_le_bytes());
    bytes[4..8].copy_from_slice(&life.to_le_bytes());
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    bytes
}

impl Handler for Recorder {
    fn deliver(&mut self, message: Delivery<'_>) {
        let word = |at: usize| u32::from_le_bytes(message.payload[at..at + 4].try_into().unwrap());
        let (id, life) = (word(0), word(4));
        let number = u64::from_le_bytes(message.payload[8..].try_into().unwrap());
        let mode = match message.mode {
            Mode::Fifo => 'f',
            Mode::Ordered => 'o',
            Mode::Safe => 's',
            Mode::Durable => 'd',
        };
        let (view, sequence) = (message.view, message.sequence);
        self.write(&format!("M {view} {sequence} {mode} {id} {life} {number}"));
        let mut past = self.past.lock().unwrap();
        past.count += 1;
        if mode != 'f' {
            past.digest = mix(past.digest, &[u64::from(id), u64::from(life), number]);
        }
        let next = past.next.entry((id, life)).or_default();
        let expected = std::mem::replace(next, number + 1);
        drop(past);
        if expected != number || message.sender.0 != id {
            let sender = message.sender;
            let what = format!("view {view} #{sequence} of {sender}: {id}.{life} says {number}, expected {expected}");
            self.write(&format!("G {what}"));
            println!("@gap {what}");
        }
    }

    fn view(&mut self, view: &View) {
        let ms = self.clock.ms();
        let mut past = self.past.lock().unwrap();
        past.view = view.number;
        let state = past.state();
        drop(past);
        let View { number, members, joined, left, failed } = view;
        let (members, failed) = (list(members), list(failed));
        self.write(&format!("V {number} {members} {} {} {failed} {state} {ms}", list(joined), list(left)));
        println!("@view {number} {members} {failed} {ms}");
    }

    fn stopped(&mut self, reason: &Error) {
        self.write(&format!("S {reason}"));
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.past.lock().unwrap().encode())))
    }

    fn restore(&mut self, state: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes)?;
        let past = Past::decode(&bytes).ok_or_else(|| io::Error::other("a malformed state"))?;
        let state = past.state();
        *self.past.lock().unwrap() = past;
        self.write(&format!("R {state}"));
        Ok(())
    }
}

fn kind(error: &Error) -> String {
    let text = format!("{error:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

/// The commands of the standard input; its end is that of the test, and of this process.
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
    // Also of a process that is stopped, or when the test itself is killed.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    tracing::subscriber::set_global_default(Stderr(role.clock)).unwrap();
    let commands = commands();
    let config = Config::from_file(role.folder.join(format!("member-{}.toml", role.id))).unwrap();
    let past = Arc::new(Mutex::new(Past::default()));
    let history = File::create(role.file("history")).unwrap();
    let group = match Group::join(config, Recorder { past: past.clone(), history, clock: role.clock }) {
        Ok(group) => group,
        Err(error) => return println!("@join-error {} {error}", kind(&error)),
    };
    let restored = past.lock().unwrap().restored;
    println!("@joined {} {}", group.view().number, if restored { "newcomer" } else { "founder" });
    Sender { role, group, past, sent: 0, sends: true }.serve(&commands);
}

struct Sender {
    role: Role,
    group: Group,
    past: Arc<Mutex<Past>>,
    sent: u64,
    sends: bool,
}

impl Sender {
    fn serve(mut self, commands: &Receiver<String>) {
        let mut tick = Instant::now();
        loop {
            tick = (tick + TICK).max(Instant::now());
            loop {
                match commands.recv_timeout(tick.saturating_duration_since(Instant::now())) {
                    Ok(command) if !self.obey(&command) => return,
                    Ok(_) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            if let Some(reason) = self.group.stopped() {
                let state = self.past.lock().unwrap().state();
                return println!("@stopped {} {reason} ({state}, sent {})", kind(&reason), self.sent);
            }
            if self.sends {
                // A full ring, or the end, which the next look tells.
                let _ = (0..BURST).try_for_each(|_| self.send(Duration::from_millis(200)));
            }
        }
    }

    fn send(&mut self, timeout: Duration) -> Result<(), Error> {
        let mode = match self.sent % 10 {
            0..=5 => Mode::Safe,
            6 | 7 => Mode::Ordered,
            _ => Mode::Fifo,
        };
        self.group.send(MAIN, mode, &payload(self.role.id, self.role.life, self.sent), timeout)?;
        self.sent += 1;
        Ok(())
    }

    /// False when this process ends.
    fn obey(&mut self, command: &str) -> bool {
        match command {
            "leave" => {
                match self.group.leave(PATIENCE) {
                    Ok(()) => println!("@left {}", self.sent),
                    Err(error) => println!("@leave-error {} {error}", kind(&error)),
                }
                return false;
            }
            "last" => {
                self.sends = false;
                if let Err(error) = self.send(PATIENCE) {
                    println!("@mute {error}");
                }
                println!("@sent {}", self.sent);
            }
            "report" => {
                let past = self.past.lock().unwrap();
                let next = past.next.iter().map(|((id, life), next)| format!(" {id}.{life}={next}"));
                println!("@report {} {}{}", past.view, past.state(), next.collect::<String>());
            }
            other => println!("@what {other}"),
        }
        true
    }
}
