//! A run across machines: one command per machine, each with the process of one member.
//!
//! The command of member 1 is the parent of all members ([`crate::crew`]). The other commands connect to it at the
//! address of member 1, and send their member number and their job. From then on they forward the lines between it and
//! their own member's process. After that, the address is free for member 1 itself.

use crate::Result;
use crate::control::{Job, Order, Plan, Word};
use crate::crew::{Hired, LEAD_NS, Task, hire, tell};
use crate::measure::now_ns;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::process::ChildStdout;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// The pause between two attempts to reach the first command, or to accept a connection.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a connected command may take to identify itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest line with which a command identifies itself, in bytes.
const HELLO_MAX: u64 = 64 << 10;
/// Flags that may differ from machine to machine.
const LOCAL: [&str; 9] =
    ["json", "hosts", "device", "gid_index", "verbs", "index", "spin_us", "busy_poll", "timeout_s"];

/// The message with which a command identifies itself to the command of member 1.
#[derive(Serialize, Deserialize)]
struct Hello {
    version: String,
    rank: usize,
    /// The job that it was started with.
    job: Value,
}

/// The answer of the command of member 1.
#[derive(Serialize, Deserialize)]
enum Answer {
    /// Accepted. The plan follows once all commands are connected.
    Welcome,
    Refused(String),
}

/// The part of a job that must be the same for all commands.
fn shared(job: &Job) -> Result<Value> {
    let mut value = serde_json::to_value(job)?;
    for flags in value.as_object_mut().into_iter().flat_map(|jobs| jobs.values_mut()) {
        LOCAL.iter().for_each(|flag| drop(flags.as_object_mut().and_then(|flags| flags.remove(*flag))));
    }
    Ok(value)
}

/// Describes the first difference between the jobs of two commands.
fn difference(ours: &Value, theirs: &Value) -> Option<String> {
    if ours == theirs {
        return None;
    }
    let first = |value: &Value| value.as_object().and_then(|o| o.iter().next().map(|(k, v)| (k.clone(), v.clone())));
    let (Some((ours, our_flags)), Some((theirs, their_flags))) = (first(ours), first(theirs)) else {
        return Some("it runs something else".to_owned());
    };
    if ours != theirs {
        return Some(format!("it runs `{}`, but member 1 runs `{}`", theirs.to_lowercase(), ours.to_lowercase()));
    }
    let flags = our_flags.as_object().into_iter().flat_map(|flags| flags.iter());
    let differs = flags.map(|(key, value)| (key, value, &their_flags[key.as_str()])).find(|(_, a, b)| a != b);
    Some(differs.map_or_else(
        || "it has other flags than member 1".to_owned(),
        |(key, a, b)| format!("its --{} is {b}, but that of member 1 is {a}", key.replace('_', "-")),
    ))
}

/// Waits for the commands of all other members. Returns their connections by rank, from 1.
pub(crate) fn gather(task: &Task) -> Result<Vec<TcpStream>> {
    let addresses = task.across.addresses();
    let listener = TcpListener::bind(&addresses[0]).map_err(|e| format!("cannot listen on {}: {e}", addresses[0]))?;
    listener.set_nonblocking(true)?;
    eprintln!("member 1 of {}: waiting for the other members on {}", addresses.len(), addresses[0]);
    let ours = shared(&task.job)?;
    let deadline = Instant::now() + task.timeout;
    let mut others: Vec<Option<TcpStream>> = addresses[1..].iter().map(|_| None).collect();
    while others.iter().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, from)) => match welcome(stream, &ours, &mut others) {
                Ok(None) => {}
                Ok(Some(why)) => return Err(why.into()),
                Err(why) => eprintln!("{from} is not a member: {why}"),
            },
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let missing = others.iter().zip(2..).filter(|(other, _)| other.is_none());
                let missing = missing.map(|(_, member)| format!("member {member} at {}", addresses[member - 1]));
                let missing = missing.collect::<Vec<_>>().join(", ");
                let seconds = task.timeout.as_secs();
                return Err(format!(
                    "after {seconds} s the commands of these members are missing: {missing}; \
                     start them, or raise --timeout-s"
                )
                .into());
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(others.into_iter().flatten().collect())
}

/// Reads the identification of a new connection and answers it.
///
/// Returns a text if a command of this run cannot take part, which ends the run. Returns an error if the connection
/// does not come from such a command.
fn welcome(mut stream: TcpStream, ours: &Value, others: &mut [Option<TcpStream>]) -> Result<Option<String>> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    // The peer sends nothing more before the answer, so no bytes are lost in the buffered reader.
    BufReader::new(&stream).take(HELLO_MAX).read_line(&mut line)?;
    let hello: Hello = serde_json::from_str(&line)?;
    stream.set_read_timeout(None)?;
    let version = env!("CARGO_PKG_VERSION");
    let place = hello.rank.checked_sub(1).and_then(|place| others.get_mut(place));
    let obstacle = match &place {
        _ if hello.version != version => Some(format!("it has version {}, but member 1 has {version}", hello.version)),
        None => Some("there is no member of this number".to_owned()),
        Some(Some(_)) => {
            Some("this member takes part already: each command needs an address or --index of its own".to_owned())
        }
        Some(None) => difference(ours, &hello.job),
    };
    if let Some(obstacle) = obstacle {
        tell(&mut stream, &Answer::Refused(obstacle.clone()))?;
        return Ok(Some(format!("the command of member {}: {obstacle}", hello.rank + 1)));
    }
    tell(&mut stream, &Answer::Welcome)?;
    place.into_iter().for_each(|place| *place = stream.try_clone().ok());
    Ok(None)
}

/// The lines of a connection, until it ends.
struct Lines(std::io::Lines<BufReader<TcpStream>>);

impl Lines {
    fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        let line = self.0.next()?.ok()?;
        serde_json::from_str(&line).ok()
    }
}

/// Runs this command's member under the control of the command of member 1. Returns the member's measurements.
pub(crate) fn follow<R: DeserializeOwned>(task: &Task, rank: usize) -> Result<R> {
    let first = &task.across.addresses()[0];
    eprintln!("member {} of {}: looking for the command of member 1 at {first}", rank + 1, task.members);
    let mut leader = dial(first, task.timeout)?;
    leader.set_nodelay(true)?;
    leader.set_read_timeout(Some(task.timeout))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    tell(&mut leader, &Hello { version, rank, job: shared(&task.job)? })?;
    let mut lines = Lines(BufReader::new(leader.try_clone()?).lines());
    let gone = "the command of member 1 has ended the run: see its output";
    match lines.next() {
        Some(Answer::Welcome) => {}
        Some(Answer::Refused(why)) => return Err(format!("refused by the command of member 1: {why}").into()),
        None => return Err(gone.into()),
    }
    let plan: Plan = lines.next().ok_or(gone)?;
    let Hired { mut child, mut stdin, stdout } = hire(&Plan { job: task.job.clone(), ..plan })?;
    let (sender, words) = channel();
    std::thread::spawn(move || {
        hand_on(stdout, &leader, &sender);
        // Closing the connection informs the first command and ends the loop below.
        let _ = leader.shutdown(Shutdown::Both);
    });
    let mut ended = false;
    while let (false, Some(order)) = (ended, lines.next()) {
        // Each machine has its own clock. The delay of the order is the error of the start time.
        let order = if let Order::Start(_) = order { Order::Start(now_ns() + LEAD_NS) } else { order };
        ended = matches!(order, Order::End);
        if tell(&mut stdin, &order).is_err() {
            break;
        }
    }
    let grace = Instant::now() + if ended { PATIENCE } else { Duration::ZERO };
    while child.try_wait()?.is_none() && Instant::now() < grace {
        std::thread::sleep(PAUSE);
    }
    // The call fails if the process has already ended, which does no harm.
    let _ = child.kill();
    child.wait()?;
    match words.iter().last() {
        Some(Word::Failed(why)) => Err(format!("member {} failed: {why}", rank + 1).into()),
        Some(Word::Done(value)) if ended => Ok(serde_json::from_value(value)?),
        _ => Err(gone.into()),
    }
}

/// Forwards the member's lines to the first command, and keeps its final message.
fn hand_on(stdout: ChildStdout, mut leader: &TcpStream, words: &Sender<Word>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(mut line) = line else { return };
        if let Ok(word @ (Word::Done(_) | Word::Failed(_))) = serde_json::from_str(&line) {
            let _ = words.send(word);
        }
        line.push('\n');
        if leader.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

fn dial(address: &str, timeout: Duration) -> Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let mut obstacle = "the host name has no address".to_owned();
    while Instant::now() < deadline {
        match address.to_socket_addrs() {
            Ok(found) => {
                for at in found {
                    match TcpStream::connect_timeout(&at, PATIENCE) {
                        Ok(stream) => return Ok(stream),
                        Err(error) => obstacle = error.to_string(),
                    }
                }
            }
            Err(error) => obstacle = error.to_string(),
        }
        std::thread::sleep(PAUSE);
    }
    Err(format!("cannot reach the command of member 1 at {address}: {obstacle}").into())
}

#[cfg(test)]
mod tests {
    use super::difference;
    use serde_json::json;

    #[test]
    fn differences_are_named() {
        let ours = json!({"Cluster": {"size": 100, "ring_bytes": 4096}});
        let says = |theirs| difference(&ours, &theirs);
        assert_eq!(says(ours.clone()), None);
        let other = json!({"Cluster": {"size": 100, "ring_bytes": null}});
        assert_eq!(says(other).unwrap(), "its --ring-bytes is null, but that of member 1 is 4096");
        assert_eq!(says(json!({"Limit": {"size": 100}})).unwrap(), "it runs `limit`, but member 1 runs `cluster`");
        assert_eq!(says(json!("Limit")).unwrap(), "it runs something else");
    }
}
