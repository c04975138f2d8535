//! A member's process: it sends at a given pace, and writes a line per delivery to its history at once.

use galerna::{Config, Delivery, Error, Group, Handler, MemberId, Mode, SubgroupId, View};
use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const MEMBER: &str = "GALERNA_OUTAGES_MEMBER";
const MAIN: SubgroupId = SubgroupId(0);
/// Makes the next callback stop the whole process.
static STANDS: AtomicBool = AtomicBool::new(false);

/// The bytes of message `number` of member `sender` in its life `life`.
fn payload(life: u32, sender: u32, number: u64, len: usize) -> Vec<u8> {
    let mut bytes = [&life.to_le_bytes()[..], &sender.to_le_bytes(), &number.to_le_bytes()].concat();
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(sender) << 32 ^ u64::from(life);
    while bytes.len() < len {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes
}

fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The line of a message in a history: sequence number, sender, length, and digest of the bytes.
pub(crate) fn line_of(sequence: u64, sender: u32, bytes: &[u8]) -> String {
    format!("{sequence} {sender} {} {:x}", bytes.len(), digest(bytes))
}

struct Recorder {
    history: File,
}

impl Recorder {
    fn write(&mut self, line: &str) {
        self.history.write_all(line.as_bytes()).unwrap();
    }
}

impl Handler for Recorder {
    fn deliver(&mut self, message: Delivery<'_>) {
        let bytes = message.payload;
        if STANDS.swap(false, Ordering::Relaxed) {
            let before = bytes.to_vec();
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).unwrap();
            if bytes != before {
                println!("changed: a message of {} bytes while it was delivered", bytes.len());
            }
        }
        let head: Option<[u8; 16]> = bytes.first_chunk().copied();
        let whole = head.is_some_and(|head| {
            let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
            let number = u64::from_le_bytes(head[8..].try_into().unwrap());
            word(4) == message.sender.0 && payload(word(0), word(4), number, bytes.len()) == bytes
        });
        let kind = if whole { 'M' } else { 'G' };
        let line = line_of(message.sequence, message.sender.0, bytes);
        self.write(&format!("{kind} {line}\n"));
    }

    fn view(&mut self, view: &View) {
        let ids: Vec<_> = view.members.iter().map(|member| member.0.to_string()).collect();
        println!("view {} of {}", view.number, ids.join(","));
    }

    fn suspected(&mut self, member: MemberId, what: &str) {
        println!("suspected {member}: {what}");
    }

    fn restore(&mut self, state: &mut dyn Read) -> std::io::Result<()> {
        state.read_to_end(&mut Vec::new()).map(|_| ())
    }

    fn stopped(&mut self, reason: &Error) {
        println!("stopped {reason:?}");
    }
}

/// Runs the member that `CONFIGURATION HISTORY LIFE LEN PAUSE_US` describes. It sends messages of up to `LEN` bytes,
/// until it is killed or a command stops it.
pub(crate) fn run() {
    let Ok(role) = std::env::var(MEMBER) else { return };
    let role: Vec<_> = role.split(' ').collect();
    let [config, history, life, len, pause_us] = role[..] else { panic!("{role:?}") };
    let (life, len, pause_us) =
        (life.parse::<u32>().unwrap(), len.parse::<usize>().unwrap(), pause_us.parse().unwrap());
    let config = Config::from_file(config).unwrap();
    let (id, logs) = (config.member.unwrap().0, config.log.is_some());
    let history = File::create(history).unwrap();
    let group = match Group::join(config, Recorder { history }) {
        Ok(group) => group,
        Err(error) => return println!("refused {error}"),
    };
    println!("joined");
    let quiet = Arc::new(AtomicBool::new(false));
    let (sender, hushed) = (group.clone(), quiet.clone());
    let sends = std::thread::spawn(move || {
        for number in 0u64.. {
            if hushed.load(Ordering::Relaxed) {
                return number;
            }
            let bytes = payload(life, id, number, 16 + (number as usize * 37) % len.max(1));
            let mode = if logs && number % 2 == 0 { Mode::Durable } else { Mode::Safe };
            if sender.send(MAIN, mode, &bytes, Duration::from_secs(120)).is_err() {
                return number;
            }
            if pause_us > 0 {
                std::thread::sleep(Duration::from_micros(pause_us));
            }
        }
        0
    });
    let mut sends = Some(sends);
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap_or_default();
        if line == "stand" {
            STANDS.store(true, Ordering::Relaxed);
        }
        if let Some(timeout_ms) = line.strip_prefix("leave ") {
            let timeout = Duration::from_millis(timeout_ms.parse().unwrap());
            println!("left {:?}", group.leave(timeout));
        }
        if line == "quiet" {
            quiet.store(true, Ordering::Relaxed);
            if let Some(sends) = sends.take() {
                println!("sent {}", sends.join().unwrap());
            }
        }
    }
}
