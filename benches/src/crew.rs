//! The parent's side: starts one process per member, starts them at the same time, and collects their reports.
//!
//! If a member fails or a deadline passes, all processes are killed, and the error names the member. In a run across
//! machines this is the side of member 1. The commands of the other members forward their members' lines to it
//! ([`crate::across`]).

use crate::Result;
use crate::across;
use crate::args::Fabric;
use crate::control::{Job, Order, Plan, Word};
use crate::measure::now_ns;
use crate::place::AcrossArgs;
use crate::ports::free_addresses;
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The time between the order to start and the start, in nanoseconds.
pub(crate) const LEAD_NS: u64 = 20_000_000;

/// The task of a crew, that is of all member processes of a run.
pub(crate) struct Task {
    pub(crate) fabric: Fabric,
    /// Addresses of this machine. The members use them in turn.
    pub(crate) hosts: Vec<IpAddr>,
    /// The addresses of the members in a run across machines.
    pub(crate) across: AcrossArgs,
    pub(crate) members: usize,
    pub(crate) job: Job,
    pub(crate) timeout: Duration,
    /// Bytes of shared memory that every member gets; 0 for none.
    pub(crate) memory_bytes: usize,
    /// The messages that a member delivers, for the progress bar; 0 for no bar.
    pub(crate) deliveries: u64,
}

/// A directory that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("galerna-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|e| format!("cannot create {}: {e}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn addresses(task: &Task, folder: &Folder) -> Result<Vec<String>> {
    let ranks = (0..task.members).map(|rank| task.job.first_rank() + rank);
    if task.fabric == Fabric::Shm {
        let path = |rank| format!("unix:{}", folder.0.join(format!("{rank}.sock")).display());
        return Ok(ranks.map(path).collect());
    }
    let hosts: Vec<_> = ranks.map(|rank| task.hosts[rank % task.hosts.len()].to_string()).collect();
    Ok(free_addresses(hosts.iter().map(String::as_str))?)
}

/// Shared memory that the members open by path while the parent holds the files.
fn memory(members: usize, bytes: usize) -> Result<(Vec<File>, Vec<PathBuf>)> {
    let files = (0..members).filter(|_| bytes > 0).map(|_| -> Result<File> {
        let file = File::from(memfd_create("galerna-bench", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(bytes as u64)?;
        Ok(file)
    });
    let files = files.collect::<Result<Vec<_>>>()?;
    let path = |file: &File| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
    let paths = files.iter().map(path).collect();
    Ok((files, paths))
}

/// The result of a run.
pub(crate) enum Reports<R> {
    /// The reports of all members, by rank.
    All(Vec<R>),
    /// In a run across machines, at every command but the first: this member's rank and report.
    Own(usize, R),
}

/// Runs `task` and returns the reports of the members.
pub(crate) fn run<R: DeserializeOwned>(task: &Task) -> Result<Reports<R>> {
    if !task.across.any() {
        return conduct(task, Vec::new()).map(Reports::All);
    }
    match task.across.rank(task.fabric)? {
        0 => conduct(task, across::gather(task)?).map(Reports::All),
        rank => across::follow(task, rank).map(|report| Reports::Own(rank, report)),
    }
}

/// Runs the first members on this machine, and the last ones over the connections in `others`.
fn conduct<R: DeserializeOwned>(task: &Task, others: Vec<TcpStream>) -> Result<Vec<R>> {
    let bar = progress_bar(task.deliveries);
    let mut crew = Crew::meet(task, others, bar.is_some())?;
    crew.get_ready()?;
    crew.order(Order::Start(now_ns() + LEAD_NS))?;
    let reports = crew.finish(bar.as_ref())?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(reports)
}

/// Only on a terminal, and only for runs that may take long.
fn progress_bar(deliveries: u64) -> Option<ProgressBar> {
    if deliveries == 0 || !std::io::stderr().is_terminal() {
        return None;
    }
    let style =
        ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} messages, {per_sec}, {eta} to go").ok()?;
    Some(ProgressBar::new(deliveries).with_style(style))
}

/// The processes of the members. Those that still run are killed when it is dropped.
pub(crate) struct Crew {
    workers: Vec<Worker>,
    /// The rank of the first of them.
    first: usize,
    addresses: Vec<String>,
    lines: Receiver<(usize, Option<String>)>,
    sender: Sender<(usize, Option<String>)>,
    timeout: Duration,
    deadline: Instant,
    /// Kept alive for the members.
    _folder: Folder,
    _files: Vec<File>,
}

struct Worker {
    /// `None` for a member on another machine.
    child: Option<Child>,
    stdin: Box<dyn Write + Send>,
    /// Whether the process was killed. No report is expected from it.
    killed: bool,
}

impl Crew {
    /// Starts the members.
    pub(crate) fn start(task: &Task) -> Result<Crew> {
        Crew::meet(task, Vec::new(), false)
    }

    /// Starts the first members on this machine, and uses the connections in `others` for the last ones.
    ///
    /// With `shows_progress`, the first member reports its progress.
    fn meet(task: &Task, others: Vec<TcpStream>, shows_progress: bool) -> Result<Crew> {
        let (sender, lines) = channel();
        let folder = Folder::new()?;
        let addresses = if task.across.any() { task.across.addresses() } else { addresses(task, &folder)? };
        let (files, memory) = memory(task.members, task.memory_bytes)?;
        let mut crew = Crew {
            workers: Vec::new(),
            first: task.job.first_rank(),
            addresses,
            lines,
            sender,
            timeout: task.timeout,
            deadline: Instant::now() + task.timeout,
            _folder: folder,
            _files: files,
        };
        let here = task.members - others.len();
        let mut elsewhere = others.into_iter().peekable();
        for rank in 0..task.members {
            let plan = Plan {
                rank: crew.first + rank,
                addresses: crew.addresses.clone(),
                memory: memory.clone(),
                progress: shows_progress && rank == 0,
                job: task.job.clone(),
            };
            match elsewhere.next_if(|_| rank >= here) {
                Some(stream) => crew.adopt(&plan, stream)?,
                None => crew.hire(&plan)?,
            }
        }
        Ok(crew)
    }

    /// The addresses of the members, by rank.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The name of a member in texts.
    fn name(&self, rank: usize) -> String {
        format!("member {}", self.first + rank + 1)
    }

    /// Returns an error if a member has failed. Other messages are discarded.
    pub(crate) fn check(&mut self) -> Result<()> {
        while let Ok((rank, line)) = self.lines.try_recv() {
            let name = self.name(rank);
            match line.as_deref().map(serde_json::from_str) {
                Some(Ok(Word::Failed(why))) => return Err(format!("{name} failed: {why}").into()),
                Some(_) => {}
                None => return Err(format!("{name} ended too early").into()),
            }
        }
        Ok(())
    }

    /// Waits until all members are ready.
    pub(crate) fn get_ready(&mut self) -> Result<()> {
        self.gather("become ready", None, |word| matches!(word, Word::Ready).then_some(())).map(drop)
    }

    /// Waits for the reports of the members and ends them. The reports are by rank, without the killed members.
    pub(crate) fn finish<R: DeserializeOwned>(mut self, bar: Option<&ProgressBar>) -> Result<Vec<R>> {
        let values = self.gather("finish", bar, |word| match word {
            Word::Done(value) => Some(value),
            _ => None,
        })?;
        self.order(Order::End)?;
        self.dismiss()?;
        let reports = values.into_iter().map(serde_json::from_value);
        Ok(reports.collect::<serde_json::Result<_>>()?)
    }

    /// Kills a member with SIGKILL. Returns the time just before the call, by [`now_ns`].
    pub(crate) fn kill(&mut self, rank: usize) -> Result<u64> {
        let name = self.name(rank);
        let worker = &mut self.workers[rank];
        let child = worker.child.as_mut().ok_or("only members on this machine can be killed")?;
        if let Some(status) = child.try_wait()? {
            return Err(format!("{name} ended too early: {status}").into());
        }
        worker.killed = true;
        let at_ns = now_ns();
        child.kill()?;
        Ok(at_ns)
    }

    fn hire(&mut self, plan: &Plan) -> Result<()> {
        let Hired { child, stdin, stdout } = hire(plan)?;
        self.add(Some(child), Box::new(stdin), stdout);
        Ok(())
    }

    /// Adds a member that was started by another command.
    fn adopt(&mut self, plan: &Plan, mut stream: TcpStream) -> Result<()> {
        let lines = stream.try_clone()?;
        // If the connection is already closed, `gather` detects it.
        let _ = tell(&mut stream, plan);
        self.add(None, Box::new(stream), lines);
        Ok(())
    }

    fn add(&mut self, child: Option<Child>, stdin: Box<dyn Write + Send>, lines: impl Read + Send + 'static) {
        let (rank, sender) = (self.workers.len(), self.sender.clone());
        std::thread::spawn(move || forward(rank, lines, &sender));
        self.workers.push(Worker { child, stdin, killed: false });
    }

    pub(crate) fn order(&mut self, order: Order) -> Result<()> {
        for worker in &mut self.workers {
            // If the process has already ended, `gather` detects it. After the end it does not matter.
            let _ = tell(&mut worker.stdin, &order);
        }
        Ok(())
    }

    /// Waits until `take` has accepted one message of every member that was not killed.
    fn gather<T>(&mut self, what: &str, bar: Option<&ProgressBar>, take: impl Fn(Word) -> Option<T>) -> Result<Vec<T>> {
        let mut taken: Vec<Option<T>> = self.workers.iter().map(|_| None).collect();
        while (0..taken.len()).any(|rank| taken[rank].is_none() && !self.workers[rank].killed) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let (rank, line) = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let late = (0..taken.len()).filter(|&r| taken[r].is_none() && !self.workers[r].killed);
                    let late = late.map(|r| self.name(r)).collect::<Vec<_>>().join(", ");
                    let seconds = self.timeout.as_secs();
                    return Err(format!(
                        "after {seconds} s these members did not {what}: {late}; \
                         raise --timeout-s if they need more time"
                    )
                    .into());
                }
            };
            if self.workers[rank].killed {
                continue;
            }
            let Some(line) = line else {
                if taken[rank].is_none() {
                    let status = self.workers[rank].child.as_mut().map(Child::wait).transpose()?;
                    let status = status.map_or_else(|| "see the output of its command".to_owned(), |s| s.to_string());
                    return Err(format!("{} ended too early: {status}", self.name(rank)).into());
                }
                continue;
            };
            match serde_json::from_str(&line) {
                Ok(Word::Failed(why)) => return Err(format!("{} failed: {why}", self.name(rank)).into()),
                Ok(Word::Progress(delivered)) => bar.iter().for_each(|bar| bar.set_position(delivered)),
                Ok(word) => taken[rank] = take(word),
                Err(_) => return Err(format!("{} printed an unexpected line: {line}", self.name(rank)).into()),
            }
        }
        Ok(taken.into_iter().flatten().collect())
    }

    /// Waits until the members, which have nothing left to do, have ended.
    fn dismiss(&mut self) -> Result<()> {
        let grace = Instant::now() + Duration::from_secs(5);
        for child in self.workers.iter_mut().filter_map(|worker| worker.child.as_mut()) {
            while child.try_wait()?.is_none() && Instant::now() < grace {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in self.workers.iter_mut().filter_map(|worker| worker.child.as_mut()) {
            // The call fails for processes that have already ended, which does no harm.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The process of a member on this machine.
pub(crate) struct Hired {
    pub(crate) child: Child,
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
}

/// Starts the process of a member, and sends it its plan.
pub(crate) fn hire(plan: &Plan) -> Result<Hired> {
    let exe = std::env::current_exe()?;
    let mut child = Command::new(exe)
        .arg("member")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start the process of member {}: {e}", plan.rank + 1))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("the process has no standard streams".into());
    };
    // If the child has already ended, `gather` detects it.
    let _ = tell(&mut stdin, plan);
    Ok(Hired { child, stdin, stdout })
}

/// Writes a value as a line of JSON.
pub(crate) fn tell(to: &mut impl Write, what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    Ok(to.write_all(&line)?)
}

fn forward(rank: usize, lines: impl Read, sender: &Sender<(usize, Option<String>)>) {
    for line in BufReader::new(lines).lines() {
        let Ok(line) = line else { break };
        if sender.send((rank, Some(line))).is_err() {
            return;
        }
    }
    let _ = sender.send((rank, None));
}
