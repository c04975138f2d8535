//! A member's process: it sends until it is killed, and writes a line per delivery to its history at once.

use crate::pace::paced;
use crate::trace::Stderr;
use galerna::{Config, Delivery, Group, Handler, Mode, SubgroupId};
use std::fs::File;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

/// Milliseconds since the start of this process.
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

pub(crate) const MEMBER: &str = "GALERNA_DURABLE_MEMBER";
/// If set, the member sends only on request.
pub(crate) const QUIET: &str = "GALERNA_DURABLE_QUIET";
const MAIN: SubgroupId = SubgroupId(0);

struct Recorder {
    history: File,
}

impl Handler for Recorder {
    fn deliver(&mut self, message: Delivery<'_>) {
        let text = String::from_utf8_lossy(&message.payload[..message.payload.len().min(24)]).into_owned();
        let text = text.split(' ').next().unwrap_or_default().to_owned();
        let mode = if message.mode == Mode::Durable { 'd' } else { 'o' };
        let line = format!("{} {} {} {mode} {text}\n", message.view, message.sequence, message.sender);
        self.history.write_all(line.as_bytes()).unwrap();
    }

    fn stopped(&mut self, reason: &galerna::Error) {
        writeln!(self.history, "# stopped: {reason}").unwrap();
    }
}

/// Runs the member that `CONFIGURATION HISTORY LIFE` describes, until it is killed or its standard input ends.
pub(crate) fn run() {
    let Ok(role) = std::env::var(MEMBER) else { return };
    let mut role = role.split(' ');
    let (config, history, life) = (role.next().unwrap(), role.next().unwrap(), role.next().unwrap());
    tracing::subscriber::set_global_default(Stderr(Clock(Instant::now()))).unwrap();
    crate::link_breaks_in_restart::break_when_told();
    let config = Config::from_file(config).unwrap();
    let history = File::create(history).unwrap();
    let group = match Group::join(config, Recorder { history }) {
        Ok(group) => group,
        Err(error) => {
            println!("refused {error}");
            return;
        }
    };
    println!("joined");
    let sender = group.clone();
    let life = life.to_owned();
    std::thread::spawn(move || {
        for number in paced() {
            if std::env::var_os(QUIET).is_some() {
                return;
            }
            // Messages of all sizes, of which some are not durable.
            let mut bytes = format!("{life}.{number} ").into_bytes();
            bytes.resize(bytes.len() + (number as usize * 37) % 3000, b'.');
            let mode = if number % 4 == 3 { Mode::Ordered } else { Mode::Durable };
            if sender.send(MAIN, mode, &bytes, Duration::from_secs(60)).is_err() {
                return;
            }
            if number % 8 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    for line in std::io::stdin().lock().lines() {
        match line.as_deref() {
            Ok("checkpoint") => println!("checkpoint {:?}", group.checkpoint(MAIN, Duration::from_secs(20))),
            Ok("closed") => println!("closed {}", group.frontiers(MAIN).unwrap().closed_ns),
            Ok("send") => {
                println!("sent {:?}", group.send(MAIN, Mode::Durable, b"asked for", Duration::from_secs(60)))
            }
            _ => {}
        }
    }
}
