//! Asks many processes the same question at once: one thread, non-blocking connections, one deadline.

use crate::deadline::Deadline;
use crate::meet::asking::{Asking, LOOKUP_LOOK_TIME};
use crate::meet::dial::Dial;
use crate::meet::names::Names;
use crate::meet::questions::{self, Reply, Request};
use nix::poll::{PollFd, PollTimeout};
use std::io;
use std::time::{Duration, Instant};

/// The processes to ask, possibly many times. Resolved host names are cached between questions.
pub(crate) struct Asker {
    names: Names,
    targets: Vec<Target>,
}

struct Target {
    address: String,
    /// `None` if the address is malformed.
    dial: Option<Dial>,
    /// It accepted the latest connection, and did not answer although it had the longer time.
    is_silent: bool,
}

/// How long the remaining processes can still answer, after one has given the answer that was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Rest {
    /// For a process that has accepted the connection. A process that did not use this time in an earlier question has
    /// only the other one.
    pub(crate) connected: Duration,
    /// For all others: a host that is down should not delay the caller.
    pub(crate) others: Duration,
}

/// When the wait for an answer ends.
struct Limits {
    begun: Instant,
    connected: Instant,
    others: Instant,
    /// One answer has changed them; no other one does.
    are_final: bool,
}

impl Limits {
    fn of(&self, target: &Target, asking: &Asking) -> Instant {
        if asking.is_connected() && !target.is_silent { self.connected } else { self.others }
    }

    fn change(&mut self, rest: Rest, now: Instant) {
        if !self.are_final {
            self.are_final = true;
            (self.connected, self.others) = (now + rest.connected, self.others.min(now + rest.others));
        }
    }
}

impl Asker {
    pub(crate) fn new(addresses: impl IntoIterator<Item = String>) -> Asker {
        let mut asker = Asker { names: Names::default(), targets: Vec::new() };
        for address in addresses {
            asker.add(address);
        }
        asker
    }

    /// Adds the process at this address to all later questions; returns false if it was added before.
    pub(crate) fn add(&mut self, address: String) -> bool {
        let is_new = !self.targets.iter().any(|target| target.address == address);
        if is_new {
            let dial = Dial::new(&address, &self.names, Instant::now()).ok();
            self.targets.push(Target { address, dial, is_silent: false });
        }
        is_new
    }

    /// The addresses of the processes to ask.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().map(|target| target.address.as_str())
    }

    /// Asks all processes, and passes each answer or error to `heard` as it arrives, with the address.
    ///
    /// Returns when all processes have answered, after `timeout`, or when the deadline passes, to which a cancellation may
    /// bring it forward. The first [`Rest`] that `heard` returns replaces the time limit of the remaining processes.
    pub(crate) fn ask(
        &mut self,
        request: &Request,
        timeout: Duration,
        deadline: &Deadline,
        mut heard: impl FnMut(&str, io::Result<Reply>) -> Option<Rest>,
    ) -> io::Result<()> {
        let question = questions::question(request)?;
        let begun = Instant::now();
        let mut limits = Limits { begun, connected: begun + timeout, others: begun + timeout, are_final: false };
        // `None` for a process that has answered or failed.
        let mut asked: Vec<Option<Asking>> = self.targets.iter().map(|_| Some(Asking::new(question.clone()))).collect();
        loop {
            let now = Instant::now();
            for (target, slot) in self.targets.iter_mut().zip(&mut asked) {
                let Some(asking) = slot else { continue };
                let Some(answer) = target.step(asking, &limits, deadline, now) else { continue };
                *slot = None;
                if let Some(rest) = heard(&target.address, answer) {
                    limits.change(rest, now);
                }
            }
            let open = || self.targets.iter().zip(&asked).filter_map(|(target, slot)| Some((target, slot.as_ref()?)));
            let Some(next) = open().map(|(target, asking)| limits.of(target, asking)).min() else { return Ok(()) };
            wait(open().map(|(_, asking)| asking), deadline.or(next).slice())?;
        }
    }
}

/// Waits until one of the questions can go on, but no longer than `time`.
fn wait<'a>(asked: impl Iterator<Item = &'a Asking> + Clone, time: Duration) -> io::Result<()> {
    let looks_up = asked.clone().any(|asking| asking.waits_for().is_none());
    let mut fds: Vec<PollFd<'_>> = asked.filter_map(Asking::waits_for).collect();
    let time = if looks_up { time.min(LOOKUP_LOOK_TIME) } else { time };
    // The time is rounded up. Otherwise the loop would spin through the last millisecond.
    let ms = time.as_micros().div_ceil(1000);
    match nix::poll::poll(&mut fds, PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Target {
    /// Continues as far as possible without waiting. Returns the answer or error that ends the question.
    fn step(
        &mut self,
        asking: &mut Asking,
        limits: &Limits,
        deadline: &Deadline,
        now: Instant,
    ) -> Option<io::Result<Reply>> {
        let Some(dial) = &mut self.dial else { return Some(Err(io::Error::other("the address is malformed"))) };
        let answer = asking.step(dial, now).transpose();
        if answer.is_some() {
            self.is_silent = false;
            return answer;
        }
        // An answer that has arrived counts, even if this thread was delayed and reads it after the limit.
        let limit = limits.of(self, asking);
        if now < limit && now < deadline.at() {
            return None;
        }
        self.is_silent |= limits.are_final && asking.is_connected() && now >= limit;
        let what = format!("no answer within {} ms", (limit.min(now) - limits.begun).as_millis());
        Some(Err(io::Error::new(io::ErrorKind::TimedOut, what)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::deadline::Cancel;
    use crate::meet::{asking, listen};
    use std::io::Read;
    use std::net::TcpListener;

    fn question() -> Request {
        Request::Ask { group: "g".to_owned(), founds: None }
    }

    fn far() -> Deadline {
        Deadline::after(Duration::from_secs(600), &Cancel::default())
    }

    /// A cancellation ends the question, although a process that has accepted the connection has not answered.
    #[test]
    fn a_cancellation_does_not_wait_for_a_process_that_hangs() {
        let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
        let cancel = Cancel::default();
        let deadline = Deadline::after(Duration::from_secs(600), &cancel);
        let cancels = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            cancel.set(Duration::ZERO);
        });
        let (begun, mut answers) = (Instant::now(), Vec::new());
        let address = hangs.local_addr().unwrap().to_string();
        let heard = |_: &str, answer| {
            answers.push(answer);
            None
        };
        Asker::new([address]).ask(&question(), Duration::from_secs(600), &deadline, heard).unwrap();
        let took = begun.elapsed();
        cancels.join().unwrap();
        assert!(matches!(&answers[..], [Err(error)] if error.kind() == io::ErrorKind::TimedOut), "{answers:?}");
        assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(60), "{took:?}");
    }

    /// A process that answers every question with these bytes, after it has read something.
    fn answers(bytes: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 1024]);
                // The answer is sent in two pieces.
                for piece in bytes.chunks(bytes.len().div_ceil(2).max(1)) {
                    let _ = io::Write::write_all(&mut stream, piece);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        address
    }

    fn reply_bytes(reply: &Reply) -> Vec<u8> {
        let mut bytes = Vec::new();
        questions::send_reply(&mut bytes, reply).unwrap();
        bytes
    }

    #[test]
    fn silence_and_garbage_hold_up_nobody_else() {
        // These connections are never accepted: the system connects them, and no process answers.
        let silent: Vec<_> = (0..40).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let runs = answers(reply_bytes(&Reply::Later { reason: "x".to_owned() }));
        let garbage = answers(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
        let mut addresses: Vec<String> = silent.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        addresses.extend([garbage.clone(), runs.clone(), runs.clone(), "unix:/nothing/here".to_owned()]);
        let mut asker = Asker::new(addresses);
        let mut heard = Vec::new();
        let time = Duration::from_secs(2);
        let (start, deadline) = (Instant::now(), far());
        asker
            .ask(&question(), time, &deadline, |address, answer| {
                heard.push((address.to_owned(), answer, start.elapsed()));
                None
            })
            .unwrap();
        assert_eq!(heard.len(), 43, "each once, and an address that was given twice is asked once");
        for (address, answer, after) in &heard {
            match answer {
                Ok(Reply::Later { .. }) => assert!(*address == runs && *after < time),
                Err(error) if *address == garbage => assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}"),
                Err(error) if address.starts_with("unix:") => assert_eq!(error.kind(), io::ErrorKind::NotFound),
                Err(error) => assert!(error.kind() == io::ErrorKind::TimedOut && *after >= time, "{address}: {error}"),
                other => panic!("{address}: {other:?}"),
            }
        }
        // The first answer ends this question.
        let mut count = 0;
        asker
            .ask(&question(), Duration::from_secs(60), &deadline, |_, answer| {
                count += usize::from(answer.is_ok());
                answer.is_ok().then_some(Rest { connected: Duration::ZERO, others: Duration::ZERO })
            })
            .unwrap();
        assert!(count == 1 && start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_name_is_tried_at_all_its_addresses() {
        let address = answers(reply_bytes(&Reply::Linked {}));
        let port = address.rsplit(':').next().unwrap();
        // The name often resolves to `::1` first, and no process listens there.
        let mut asker = Asker::new([format!("localhost:{port}")]);
        let mut heard = None;
        asker
            .ask(&question(), Duration::from_secs(30), &far(), |_, answer| {
                heard = Some(answer);
                None
            })
            .unwrap();
        assert!(matches!(heard, Some(Ok(Reply::Linked {}))), "{heard:?}");
    }

    /// A member can listen on a port that a former connection still holds in TIME_WAIT.
    ///
    /// The process that asked holds its end of the connection in TIME_WAIT, on a port that the system chose. The port
    /// may be a member's, and that member must be able to listen on it after a restart.
    #[test]
    fn a_member_can_listen_on_a_port_that_asked() {
        let time = Duration::from_secs(60);
        let ways: [&dyn Fn(&str); 3] = [
            &|address| Asker::new([address.to_owned()]).ask(&question(), time, &far(), |_, _| None).unwrap(),
            &|address| drop(questions::ask(address, &question(), time).unwrap()),
            &|address| drop(asking::ask(address, &question(), time, &far()).unwrap()),
        ];
        for ask in ways {
            let mut attempts = Vec::new();
            // The system assigns one port to connections with several peers, so a connection of another test may hold
            // this port in TIME_WAIT for a minute. It does not hold ten ports in a row.
            let listens = (0..10).any(|_| match listen_on_port_that_asked(ask) {
                Ok(_) => true,
                Err(error) => {
                    attempts.push(error);
                    false
                }
            });
            assert!(listens, "{attempts:?}");
        }
    }

    fn listen_on_port_that_asked(ask: &dyn Fn(&str)) -> Result<listen::Listening, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, from) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            io::Write::write_all(&mut stream, &reply_bytes(&Reply::Linked {})).unwrap();
            // The other end closes first.
            assert_eq!(stream.read(&mut [0; 1024]).unwrap(), 0);
            from
        });
        ask(&address);
        let port = server.join().unwrap().to_string();
        listen::listen(crate::config::address::ListenAt { address: &port, key: "`listen`" })
    }
}
