//! The process of a member, as the runner controls it.

use crate::member::{MEMBER, Role};
use crate::record::Process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;

/// Output of a process: a line without its `@`, or none at the end of the process.
pub(crate) struct Said {
    pub(crate) process: Process,
    pub(crate) line: Option<String>,
}

/// A running process. Dropping it ends the process.
pub(crate) struct Life {
    child: Child,
    stdin: ChildStdin,
}

impl Life {
    /// Starts a process. `prepare` sets the host and the environment of its command.
    pub(crate) fn start(role: &Role, sink: &Sender<Said>, prepare: impl FnOnce(&mut Command)) -> Life {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "member_process", "--nocapture", "--test-threads=1"])
            .env(MEMBER, role.encode())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(role.file("stderr")).unwrap());
        prepare(&mut command);
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sink, process) = (sink.clone(), role.process);
        std::thread::spawn(move || {
            // The test harness prints lines of its own, and text in front of the first line of ours.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, line)) = line.split_once('@') {
                    let _ = sink.send(Said { process, line: Some(line.to_owned()) });
                }
            }
            let _ = sink.send(Said { process, line: None });
        });
        Life { child, stdin }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // The process was not waited for yet, so its id is not in use by another process.
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) fn tell(&mut self, command: &str) {
        // The process may have ended.
        let _ = writeln!(self.stdin, "{command}");
    }

    /// Waits for the process, and returns how it ended.
    pub(crate) fn reap(&mut self) -> String {
        self.child.wait().unwrap().to_string()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
