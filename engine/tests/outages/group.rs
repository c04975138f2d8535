//! The processes of a group, and their output.

use super::common;
use super::folder::Folder;
use super::member::MEMBER;
use galerna::FabricKind;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The limit for every wait, long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Approximate length of a history's line, in bytes.
const LINE_LEN: u64 = 32;

/// The settings of a group.
pub(crate) struct Plan {
    pub(crate) fabric: FabricKind,
    /// For each member, the address that the others dial, and the one on which it listens.
    pub(crate) addresses: Vec<(String, String)>,
    /// Further lines of the configuration.
    pub(crate) keys: String,
    pub(crate) logs: bool,
    /// Bytes of the largest messages, and the pause after each, in microseconds.
    pub(crate) len: usize,
    pub(crate) pause_us: u64,
}

/// The processes and files of a group.
pub(crate) struct Cluster {
    pub(crate) folder: Folder,
    plan: Plan,
    lives: u32,
    pub(crate) members: BTreeMap<u32, Process>,
}

pub(crate) struct Process {
    pub(crate) child: Child,
    orders: ChildStdin,
    /// Lines of output, each with the time at which it was read.
    said: Arc<Mutex<Vec<(Instant, String)>>>,
    history: PathBuf,
}

impl Cluster {
    pub(crate) fn start(name: &str, plan: Plan) -> Cluster {
        let folder = Folder::new(name);
        let (fabric, keys) = (plan.fabric, &plan.keys);
        let members = plan.addresses.iter().zip(1..);
        let members = members.map(|((address, _), id)| format!("[[members]]\nid = {id}\naddress = \"{address}\"\n"));
        let members: String = members.collect();
        let verbs_timeout = common::patient_verbs().timeout;
        let log = match plan.logs {
            true => format!("[log]\ndirectory = \"{}\"\nsegment_bytes = 1048576\n", folder.0.join("logs").display()),
            false => String::new(),
        };
        for ((address, listen), id) in plan.addresses.iter().zip(1..) {
            let listen = if listen == address { String::new() } else { format!("listen = \"{listen}\"\n") };
            let text = format!(
                "group = \"outages\"\nmember = {id}\nfabric = \"{fabric}\"\njoin_timeout_ms = 100000\n\
                 verbs.timeout = {verbs_timeout}\n{listen}{keys}\n{log}{members}"
            );
            std::fs::write(folder.0.join(format!("{id}.toml")), text).unwrap();
        }
        let count = plan.addresses.len() as u32;
        let mut cluster = Cluster { folder, plan, lives: 0, members: BTreeMap::new() };
        (1..=count).for_each(|id| cluster.begin(id));
        (1..=count).for_each(|id| cluster.wait(id, "joined"));
        cluster
    }

    /// Starts a new life of member `id`.
    pub(crate) fn begin(&mut self, id: u32) {
        self.lives += 1;
        let (folder, Plan { len, pause_us, .. }) = (&self.folder.0, &self.plan);
        let history = folder.join(format!("{id}-{}.history", self.lives));
        let config = folder.join(format!("{id}.toml"));
        let role = format!("{} {} {} {len} {pause_us}", config.display(), history.display(), self.lives);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["member_process", "--exact", "--nocapture", "--test-threads", "1"])
            .env(MEMBER, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.join(format!("{id}-{}.trace", self.lives))).unwrap())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, heard) = (BufReader::new(child.stdout.take().unwrap()), said.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                heard.lock().unwrap().push((Instant::now(), line));
            }
        });
        let orders = child.stdin.take().unwrap();
        self.members.insert(id, Process { child, orders, said, history });
    }

    /// Waits until the member has printed a line that contains `what`.
    pub(crate) fn wait(&self, id: u32, what: &str) {
        let process = &self.members[&id];
        until(|| process.has_said(what), || format!("member {id} has not said `{what}`: {:?}", process.said()));
    }

    /// Waits until the member's last view has these members.
    pub(crate) fn wait_for_view(&self, id: u32, members: &str) {
        let process = &self.members[&id];
        let is = || process.view().is_some_and(|view| view == members);
        until(is, || format!("member {id} is not in a view of {members}: {:?}", process.said()));
    }

    /// Asserts that no member accused another one of breaking the protocol, and none was delivered bytes that were not
    /// sent.
    pub(crate) fn check_manners(&self) {
        for (id, process) in &self.members {
            let said = process.said();
            let bad = said.iter().find(|line| {
                line.contains("broke the protocol") || line.contains("Contract") || line.contains("changed")
            });
            assert!(bad.is_none(), "member {id}: {bad:?}");
            let garbage = process.lines().into_iter().find(|line| line.starts_with('G'));
            assert!(garbage.is_none(), "member {id} was delivered {garbage:?}");
        }
    }

    /// The output of all processes, with its age.
    fn all_said(&self) -> String {
        let now = Instant::now();
        let mut text = String::new();
        for (id, process) in &self.members {
            for (at, line) in &*process.said.lock().unwrap() {
                text += &format!("\nmember {id}, {} ms ago: {line}", (now - *at).as_millis());
            }
        }
        text
    }

    /// Waits until each of `ids` was delivered about `more` further messages.
    pub(crate) fn wait_for_more(&self, ids: &[u32], more: u64) {
        let before: Vec<u64> = ids.iter().map(|id| self.members[id].history_len()).collect();
        for (id, before) in ids.iter().zip(before) {
            let process = &self.members[id];
            let what = || format!("member {id} is delivered nothing more: {}", self.all_said());
            until(|| process.history_len() >= before + LINE_LEN * more, what);
        }
    }
}

/// Waits until `done`.
pub(crate) fn until(mut done: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{}", what());
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Process {
    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) fn stop(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    /// Makes the process stand still in its next callback.
    pub(crate) fn stand(&mut self) {
        writeln!(self.orders, "stand").unwrap();
    }

    pub(crate) fn go_on(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    /// Tells the member to leave.
    pub(crate) fn leave(&mut self, timeout_ms: u64) {
        writeln!(self.orders, "leave {timeout_ms}").unwrap();
    }

    /// Makes the process send no more messages.
    pub(crate) fn hush(&mut self) {
        writeln!(self.orders, "quiet").unwrap();
    }

    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }

    pub(crate) fn has_said(&self, what: &str) -> bool {
        self.said.lock().unwrap().iter().any(|(_, line)| line.contains(what))
    }

    /// The members of the last view that the process has printed.
    fn view(&self) -> Option<String> {
        let said = self.said.lock().unwrap();
        let mut lines = said.iter().rev().map(|(_, line)| line);
        let last = lines.find(|line| line.starts_with("view "))?;
        last.split(' ').next_back().map(str::to_owned)
    }

    fn history_len(&self) -> u64 {
        std::fs::metadata(&self.history).map_or(0, |file| file.len())
    }

    /// The lines of its history, without an incomplete one at the end.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.history).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
