//! The demonstration: three members on this host are loaded, all killed at the same time during the load, and started
//! again. Repeated for the requested number of rounds.

use crate::expected::Expected;
use crate::members::{Event, Members};
use crate::options::Demo;
use crate::ports::free_port;
use anyhow::{Context, Result, bail, ensure};
use galerna::FabricKind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

const MEMBERS: usize = 3;
/// Number of changes per member that are sent and not acknowledged yet.
const WINDOW: u64 = 64;
/// Number of keys of each member.
const KEYS: u64 = 200;
/// One of this number of changes removes its key.
const REMOVES: u64 = 10;
/// How long any step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The exit code after Ctrl-C, as shells use it.
const INTERRUPTED: u8 = 130;

/// The error of an interrupted demonstration.
#[derive(Debug)]
struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted: all members were ended")
    }
}

impl std::error::Error for Interrupted {}

/// The group, across all restarts.
struct Group<'a> {
    config: &'a Path,
    sender: Sender<Event>,
    events: Receiver<Event>,
    expected: Expected,
    /// Number of changes sent by each member, in all rounds.
    sent: [u64; MEMBERS],
}

pub(crate) fn run(demo: &Demo) -> Result<ExitCode> {
    // The directory is removed when this is dropped, also after an error.
    let temporary = tempfile::Builder::new().prefix("durable-map-").tempdir();
    let temporary = temporary.context("cannot make a temporary directory")?;
    let directory = directory(demo, temporary.path())?;
    let config = directory.join("group.toml");
    let text = configuration(demo.fabric.into(), &directory, temporary.path())?;
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let (sender, events) = channel();
    let interrupts = sender.clone();
    ctrlc::set_handler(move || drop(interrupts.send(Event::Interrupted))).context("cannot wait for Ctrl-C")?;
    let mut group = Group { config: &config, sender, events, expected: Expected::default(), sent: [0; MEMBERS] };
    match group.show(demo) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("{error}");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error),
    }
}

fn directory(demo: &Demo, temporary: &Path) -> Result<PathBuf> {
    let Some(directory) = &demo.directory else { return Ok(temporary.to_owned()) };
    std::fs::create_dir(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    std::path::absolute(directory).with_context(|| format!("cannot find {}", directory.display()))
}

/// Makes the configuration of three members on this host, with sockets in `sockets` or on free ports.
fn configuration(fabric: FabricKind, directory: &Path, sockets: &Path) -> Result<String> {
    let logs = directory.join("logs");
    let mut text = format!("group = \"map\"\nfabric = \"{fabric}\"\njoin_timeout_ms = 100000\n");
    // With these timeouts no member is suspected because the machine is busy. A process that ends is noticed anyway.
    text += "failure_timeout_ms = 30000\npartition_timeout_ms = 30000\nring_bytes = 262144\n";
    text += &format!("\n[log]\ndirectory = {logs:?}\nsegment_bytes = 4194304\nrestart_wait_ms = 60000\n");
    // All listeners are open at the same time, so that no port is assigned twice.
    let mut listeners = Vec::new();
    for id in 1..=MEMBERS {
        let address = match fabric {
            FabricKind::Shm => format!("unix:{}", sockets.join(format!("{id}.sock")).display()),
            _ => {
                let listener = free_port("127.0.0.1").context("no free port")?;
                let address = listener.local_addr()?.to_string();
                listeners.push(listener);
                address
            }
        };
        text += &format!("\n[[members]]\nid = {id}\naddress = {address:?}\n");
    }
    Ok(text)
}

impl Group<'_> {
    fn show(&mut self, demo: &Demo) -> Result<()> {
        let mut members = self.start()?;
        for round in 1..=demo.rounds {
            let started = Instant::now();
            let (acknowledged, on_the_way) = self.load(&mut members, u64::from(demo.changes))?;
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "round {round}: {acknowledged} changes were acknowledged in {seconds:.2} s, {on_the_way} were in flight; killed all members"
            );
            let restarted = Instant::now();
            members = self.start()?;
            let seconds = restarted.elapsed().as_secs_f64();
            let keys = self.check(&mut members)?;
            println!(
                "         started again in {seconds:.2} s: no acknowledged change is lost, and the {MEMBERS} maps of {keys} keys are equal"
            );
        }
        self.end(members)
    }

    /// Starts the members and waits until all have joined.
    fn start(&mut self) -> Result<Members> {
        let members = Members::start(self.config, MEMBERS, &self.sender)?;
        for _ in 0..members.len() {
            let (index, line) = self.hear(&members)?;
            ensure!(line.starts_with("joined "), unexpected(index, &line));
        }
        Ok(members)
    }

    /// Loads the group, then kills all members. Every member changes the map until `changes` changes are acknowledged,
    /// and writes a checkpoint in that time. The kill happens while more changes are on their way. Returns the number
    /// of changes that were acknowledged, and of those that were not.
    fn load(&mut self, members: &mut Members, changes: u64) -> Result<(u64, u64)> {
        let (mut acknowledged, mut checkpoints) = (0, 0);
        let sent_before: u64 = self.sent.iter().sum();
        for index in 0..members.len() {
            for _ in 0..WINDOW {
                self.change(members, index)?;
            }
            members.tell(index, "checkpoint")?;
        }
        while acknowledged < changes || checkpoints < members.len() {
            let (index, line) = self.hear(members)?;
            if line.starts_with("checkpoint ") {
                checkpoints += 1;
                continue;
            }
            self.take(index, &line)?;
            acknowledged += 1;
            self.change(members, index)?;
        }
        members.kill();
        // Acknowledgements that were written before the kill still count.
        let mut alive = members.len();
        while alive > 0 {
            match self.event()? {
                Event::Said(index, line) => {
                    self.take(index, &line)?;
                    acknowledged += 1;
                }
                Event::Ended(_) => alive -= 1,
                Event::Interrupted => return Err(Interrupted.into()),
            }
        }
        Ok((acknowledged, self.sent.iter().sum::<u64>() - sent_before - acknowledged))
    }

    /// Makes a member change one of its keys.
    fn change(&mut self, members: &mut Members, index: usize) -> Result<()> {
        let number = self.sent[index];
        self.sent[index] += 1;
        let key = format!("{}-{}", index + 1, number * 7 % KEYS);
        if number % REMOVES == REMOVES - 1 {
            self.expected.sent(&key, None);
            return members.tell(index, &format!("del {key}"));
        }
        let value = format!("value {number}");
        self.expected.sent(&key, Some(value.clone()));
        members.tell(index, &format!("put {key} {value}"))
    }

    /// Records an acknowledgement.
    fn take(&mut self, index: usize, line: &str) -> Result<()> {
        let key = line.strip_prefix("ok ").with_context(|| unexpected(index, line))?;
        self.expected.acknowledged(key)
    }

    /// Compares the maps of the members with each other and with the acknowledged changes. Returns the number of keys.
    fn check(&mut self, members: &mut Members) -> Result<usize> {
        let mut maps = vec![BTreeMap::new(); members.len()];
        for index in 0..members.len() {
            members.tell(index, "dump")?;
        }
        let mut ended = 0;
        while ended < members.len() {
            let (index, line) = self.hear(members)?;
            let (key, value) = line.split_once(' ').with_context(|| unexpected(index, &line))?;
            if key == "end" {
                ensure!(
                    maps[index].len().to_string() == value,
                    "member {} reports `{line}`, but sent another number of keys",
                    index + 1
                );
                ended += 1;
                continue;
            }
            maps[index].insert(key.to_owned(), value.to_owned());
        }
        for (index, map) in maps.iter().enumerate() {
            ensure!(*map == maps[0], "the maps of members 1 and {} differ", index + 1);
        }
        self.expected.check(&maps[0])?;
        Ok(maps[0].len())
    }

    fn end(&mut self, mut members: Members) -> Result<()> {
        members.dismiss();
        for _ in 0..members.len() {
            match self.event()? {
                Event::Ended(index) => {
                    let status = members.status(index)?;
                    ensure!(status.success(), "member {} could not leave: {status}", index + 1);
                }
                Event::Said(index, line) => bail!(unexpected(index, &line)),
                Event::Interrupted => return Err(Interrupted.into()),
            }
        }
        Ok(())
    }

    /// Returns the next line of a member. It is an error if a member ends.
    fn hear(&mut self, members: &Members) -> Result<(usize, String)> {
        match self.event()? {
            Event::Said(index, line) => Ok((index, line)),
            Event::Ended(index) => bail!("member {} of {} died", index + 1, members.len()),
            Event::Interrupted => Err(Interrupted.into()),
        }
    }

    fn event(&mut self) -> Result<Event> {
        self.events.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow::anyhow!("nothing happened for {} s", PATIENCE.as_secs()),
            RecvTimeoutError::Disconnected => anyhow::anyhow!("all members have ended"),
        })
    }
}

fn unexpected(index: usize, line: &str) -> String {
    format!("member {} printed an unexpected line: {line}", index + 1)
}
