//! The member processes, as the demonstration starts, commands and kills them.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;

/// An event that the demonstration waits for.
pub(crate) enum Event {
    /// Member `.0`, counted from 0, wrote a line.
    Said(usize, String),
    /// The output of member `.0` has ended.
    Ended(usize),
    /// Ctrl-C, or a request to end.
    Interrupted,
}

/// The members of one round. They are killed when this is dropped.
pub(crate) struct Members(Vec<Member>);

struct Member {
    child: Child,
    /// `None` once the member is to end.
    input: Option<ChildStdin>,
}

impl Members {
    /// Starts the `count` members of the configuration.
    pub(crate) fn start(config: &Path, count: usize, events: &Sender<Event>) -> Result<Members> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut members = Members(Vec::new());
        for index in 0..count {
            let mut child = Command::new(&program)
                .arg("member")
                .arg(config)
                .arg((index + 1).to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Ctrl-C then reaches only this process, which ends the members.
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot start member {}", index + 1))?;
            let (input, output, events) = (child.stdin.take(), child.stdout.take(), events.clone());
            members.0.push(Member { child, input });
            std::thread::spawn(move || listen(index, output, &events));
        }
        Ok(members)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sends a member one or more commands.
    pub(crate) fn tell(&mut self, index: usize, commands: &str) -> Result<()> {
        let input = self.0[index].input.as_mut().context("the member was ordered to end")?;
        writeln!(input, "{commands}").with_context(|| format!("member {} does not accept commands any more", index + 1))
    }

    /// Kills all members with SIGKILL.
    pub(crate) fn kill(&mut self) {
        for member in &mut self.0 {
            // An error is ignored: the process may have ended already.
            let _ = member.child.kill();
        }
    }

    /// Makes all members leave the group by closing their input.
    pub(crate) fn dismiss(&mut self) {
        self.0.iter_mut().for_each(|member| drop(member.input.take()));
    }

    /// Returns the exit status of a member. Waits for the member, which has ended or is about to end.
    pub(crate) fn status(&mut self, index: usize) -> Result<ExitStatus> {
        self.0[index].child.wait().with_context(|| format!("cannot wait for member {}", index + 1))
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.kill();
        for member in &mut self.0 {
            let _ = member.child.wait();
        }
    }
}

fn listen(index: usize, output: Option<ChildStdout>, events: &Sender<Event>) {
    let lines = output.map(|output| BufReader::new(output).lines());
    let lines = lines.into_iter().flatten().map_while(Result::ok);
    for line in lines.filter(|line| !line.starts_with("members: ")) {
        let _ = events.send(Event::Said(index, line));
    }
    let _ = events.send(Event::Ended(index));
}
