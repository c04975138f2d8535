//! A member's process, which takes commands on its standard input.

use galerna::{Config, Delivery, Group, Handler, MemberId, Mode, SubgroupId};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MEMBER: &str = "GALERNA_FOUNDING_MEMBER";
const MAIN: SubgroupId = SubgroupId(0);
/// The limit for every wait, long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Default)]
struct List(Arc<Mutex<Vec<String>>>);

impl Handler for List {
    fn deliver(&mut self, message: Delivery<'_>) {
        self.0.lock().unwrap().push(String::from_utf8_lossy(message.payload).into_owned());
    }

    fn snapshot(&mut self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(std::io::Cursor::new(self.0.lock().unwrap().join(" ").into_bytes())))
    }

    fn restore(&mut self, state: &mut dyn Read) -> std::io::Result<()> {
        let mut text = String::new();
        state.read_to_string(&mut text)?;
        *self.0.lock().unwrap() = text.split_whitespace().map(str::to_owned).collect();
        Ok(())
    }
}

/// Runs a member's process. Its commands are `join`, `leave`, `send TEXT`, `view` and `list`; it answers each with a
/// line.
pub(crate) fn run() {
    let Ok(config) = std::env::var(MEMBER) else { return };
    let config = Config::from_file(config).unwrap();
    let list = List::default();
    let mut group: Option<Group> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let said = match (line.split_once(' ').unwrap_or((&line, "")), &group) {
            (("join", _), _) => match Group::join(config.clone(), list.clone()) {
                Ok(joined) => {
                    let view = joined.view();
                    group = Some(joined);
                    format!("joined {:?}", ids(&view.members))
                }
                Err(error) => format!("refused {error}"),
            },
            (("leave", _), Some(_)) => format!("left {:?}", group.take().unwrap().leave(PATIENCE)),
            (("send", text), Some(group)) => {
                let sent = group.send(MAIN, Mode::Safe, text.as_bytes(), PATIENCE);
                format!("sent {:?} {:?}", sent, group.flush(MAIN, galerna::Copies::All, PATIENCE))
            }
            (("view", _), Some(group)) => format!("view {:?} {:?}", ids(&group.view().members), group.stopped()),
            (("list", _), _) => format!("list {}", list.0.lock().unwrap().join(" ")),
            (other, _) => format!("cannot {other:?}"),
        };
        println!("said {said}");
        std::io::stdout().flush().unwrap();
    }
}

fn ids(members: &[MemberId]) -> Vec<u32> {
    let mut ids: Vec<u32> = members.iter().map(|member| member.0).collect();
    ids.sort_unstable();
    ids
}

/// A process, which is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    said: Receiver<String>,
}

impl Process {
    /// Starts a process with this configuration; it does nothing yet. `wrapped` is a command that runs it.
    pub(crate) fn start(folder: &Path, name: &str, config: &str, wrapped: &[&str]) -> Process {
        let file = folder.join(format!("{name}.toml"));
        std::fs::write(&file, config).unwrap();
        let own = std::env::current_exe().unwrap().display().to_string();
        let words: Vec<&str> = wrapped.iter().copied().chain([own.as_str()]).collect();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(["member_process", "--exact", "--nocapture", "--test-threads", "1"])
            .env(MEMBER, &file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Output of the test runner may be in front of it on the same line.
                if let Some((_, line)) = line.split_once("said ") {
                    let _ = sender.send(line.to_owned());
                }
            }
        });
        Process { child, input, said }
    }

    /// Sends a command.
    pub(crate) fn tell(&mut self, what: &str) {
        writeln!(self.input, "{what}").unwrap();
    }

    /// Waits for the next answer.
    pub(crate) fn hear(&self) -> String {
        self.said.recv_timeout(PATIENCE).expect("the process says nothing")
    }

    pub(crate) fn ask(&mut self, what: &str) -> String {
        self.tell(what);
        self.hear()
    }

    /// Whether it has given no answer yet.
    pub(crate) fn is_silent(&self) -> bool {
        self.said.try_recv().is_err()
    }

    /// Sends `SIGKILL`, and waits for the end.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until its view has these members.
    pub(crate) fn wait_for_view(&mut self, ids: &[u32]) {
        let wanted = format!("view {ids:?} None");
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let view = self.ask("view");
            if view == wanted {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{view}, not {wanted}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the configuration of member `id` at `addresses[id - 1]`, with these founders, and with `keys` before the
/// lists.
pub(crate) fn configuration(id: u32, addresses: &[String], founders: &[u32], keys: &str) -> String {
    let own = match founders.contains(&id) {
        true => String::new(),
        false => format!("address = \"{}\"\n", addresses[id as usize - 1]),
    };
    let members = founders.iter().map(|id| {
        let address = &addresses[*id as usize - 1];
        format!("[[members]]\nid = {id}\naddress = \"{address}\"\n")
    });
    let members: String = members.collect();
    format!(
        "group = \"found\"\nmember = {}\nfabric = \"tcp\"\nring_bytes = 65536\n{own}{keys}\n{members}",
        MemberId(id)
    )
}

/// Makes the `contacts` key for these members.
pub(crate) fn contacts(addresses: &[String], ids: &[u32]) -> String {
    let addresses: Vec<&String> = ids.iter().map(|id| &addresses[*id as usize - 1]).collect();
    format!("contacts = {addresses:?}\n")
}
