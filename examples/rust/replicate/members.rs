//! The member processes from the parent's point of view. They are killed when [`Members`] is dropped.

use crate::member::Report;
use crate::options::{Run, Workload};
use crate::ports::free_port;
use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;

/// An event that the parent waits for.
pub(crate) enum Event {
    /// Process `.0` sent a report.
    Report(usize, Report),
    /// Process `.0` has closed its standard output, so it ends.
    Ended(usize),
    /// Ctrl-C, or a request to end.
    Interrupted,
}

/// The processes: one per member, indexed by id, followed by the process that replaces a victim.
pub(crate) struct Members(Vec<Child>);

/// The parameters that all members are started with.
pub(crate) struct Launch<'a> {
    pub(crate) run: &'a Run,
    pub(crate) workload: &'a Workload,
    /// The configuration file.
    pub(crate) config: &'a Path,
    /// Number of lines in the file.
    pub(crate) expect: usize,
    pub(crate) victim: Option<u32>,
    /// The channel that receives the reports of the members.
    pub(crate) events: &'a Sender<Event>,
}

impl Launch<'_> {
    /// Starts process number `process` as member `id`. It does not treat a failure of `victim` as an error.
    fn member(&self, process: usize, id: u32, victim: Option<u32>) -> Result<Child> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut child = Command::new(&program)
            .args([OsStr::new("member"), OsStr::new("--config"), self.config.as_os_str()])
            .args([format!("--id={id}"), format!("--expect={}", self.expect)])
            .args(victim.map(|victim| format!("--victim={victim}")))
            .args(self.workload.to_args())
            // Held open until the member is to end, see `die_with_parent`.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C then reaches only this process, which ends the members.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start member {id}"))?;
        if self.run.verbose {
            // An error is ignored: standard error may be closed.
            let _ = writeln!(std::io::stderr(), "member {id}: pid {}", child.id());
        }
        let (output, events) = (child.stdout.take(), self.events.clone());
        std::thread::spawn(move || listen(process, output, &events));
        Ok(child)
    }
}

impl Members {
    /// Starts all members.
    pub(crate) fn start(launch: &Launch<'_>) -> Result<Members> {
        let mut members = Members(Vec::new());
        for id in 0..launch.run.members {
            members.0.push(launch.member(id as usize, id, launch.victim)?);
        }
        Ok(members)
    }

    /// Starts a process that replaces member `id`. It has the same id and address, and no state of its predecessor.
    pub(crate) fn replace(&mut self, launch: &Launch<'_>, id: u32) -> Result<()> {
        self.0.push(launch.member(self.0.len(), id, None)?);
        Ok(())
    }

    /// Kills process `id` with SIGKILL. Returns false if it had already ended.
    pub(crate) fn kill_one(&mut self, id: usize) -> Result<bool> {
        let child = &mut self.0[id];
        let runs = child.try_wait().with_context(|| format!("cannot query the state of member {id}"))?.is_none();
        if runs {
            child.kill().with_context(|| format!("cannot kill member {id}"))?;
        }
        Ok(runs)
    }

    /// Returns the exit status of process `id`. Waits for the process, which has ended or is about to end.
    pub(crate) fn status(&mut self, id: usize) -> Result<ExitStatus> {
        self.0[id].wait().with_context(|| format!("cannot wait for member {id}"))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn pid(&self, id: usize) -> u32 {
        self.0[id].id()
    }

    /// Kills the processes that still run.
    pub(crate) fn kill(&mut self) {
        for child in &mut self.0 {
            // An error is ignored: the process may have ended already.
            let _ = child.kill();
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.kill();
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

fn listen(process: usize, output: Option<ChildStdout>, events: &Sender<Event>) {
    let lines = output.map(|output| BufReader::new(output).lines());
    for line in lines.into_iter().flatten().map_while(Result::ok) {
        if let Ok(report) = serde_json::from_str(&line) {
            let _ = events.send(Event::Report(process, report));
        }
    }
    let _ = events.send(Event::Ended(process));
}

/// Makes the configuration of a group of members on this host, with their sockets in `directory`.
pub(crate) fn config(run: &Run, directory: &Path) -> Result<String> {
    let kind: galerna::FabricKind = run.fabric.into();
    let mut text = format!("group = \"replicate\"\nfabric = \"{kind}\"\n");
    // All listeners are open at the same time, so that no port is assigned twice.
    let mut listeners = Vec::new();
    for id in 0..run.members {
        let address = match kind {
            galerna::FabricKind::Auto | galerna::FabricKind::Verbs | galerna::FabricKind::Tcp => {
                let host = run.hosts[id as usize % run.hosts.len()];
                let listener = free_port(&host.to_string()).with_context(|| format!("no free port on {host}"))?;
                let address = listener.local_addr()?.to_string();
                listeners.push(listener);
                address
            }
            galerna::FabricKind::Shm => format!("unix:{}", directory.join(format!("{id}.sock")).display()),
        };
        text += &format!("\n[[members]]\nid = {id}\naddress = {address:?}\n");
    }
    Ok(text)
}
