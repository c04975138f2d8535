//! A group with logs. Its members are threads of this process.

use crate::Result;
use crate::measure::now_ns;
use crate::ports::free_addresses;
use galerna::Member as Listed;
use galerna::{Config, Delivery, FabricKind, Group, Handler, LogConfig, MemberId, Mode, SubgroupId};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) const MAIN: SubgroupId = SubgroupId(0);
/// The time limit of every operation, longer than any operation takes on a working machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// The failure timeout in ms. It is long, so that members on a busy machine or disk do not suspect each other.
const FAILURE_MS: u64 = 30_000;

/// The deliveries of a member's application.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<(Mutex<Marks>, Condvar)>);

#[derive(Default)]
struct Marks {
    /// The deliveries so far, the target count, and the time at which it was reached. Waiting threads are then
    /// notified.
    count: u64,
    target: u64,
    at_ns: u64,
    /// The tag of the wanted message, the time of its first delivery, and the number of deliveries before it.
    looked_for: Option<u64>,
    found_ns: Option<u64>,
    told_before: u64,
}

impl Seen {
    /// Waits for a message made by [`tagged`].
    pub(crate) fn looking_for(tag: u64) -> Seen {
        let marks = Marks { looked_for: Some(tag), ..Marks::default() };
        Seen(Arc::new((Mutex::new(marks), Condvar::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> u64 {
        self.lock().count
    }

    /// The number of deliveries before the wanted message.
    pub(crate) fn told_before(&self) -> u64 {
        self.lock().told_before
    }

    /// Sets the target count. Must be called before it is reached.
    pub(crate) fn aim_at(&self, count: u64) {
        self.lock().target = count;
    }

    fn wait(&self, what: &str, get: impl Fn(&Marks) -> Option<u64>) -> Result<u64> {
        let (marks, late) = (self.lock(), |m: &mut Marks| get(m).is_none());
        let waited = self.0.1.wait_timeout_while(marks, PATIENCE, late);
        let (marks, _) = waited.unwrap_or_else(PoisonError::into_inner);
        get(&marks).ok_or_else(|| format!("{what} did not arrive within {} s", PATIENCE.as_secs()).into())
    }

    /// Waits until the target count is delivered. Returns the time of the last of these deliveries.
    pub(crate) fn wait_for_all(&self) -> Result<u64> {
        self.wait("all messages", |marks| (marks.count >= marks.target).then_some(marks.at_ns))
    }

    /// Waits for the wanted message. Returns the time of its delivery.
    pub(crate) fn wait_for_found(&self) -> Result<u64> {
        self.wait("the new message", |marks| marks.found_ns)
    }
}

impl Handler for Seen {
    fn deliver(&mut self, message: Delivery<'_>) {
        let mut marks = self.lock();
        marks.count += 1;
        let aimed = marks.count == marks.target;
        let found = marks.found_ns.is_none()
            && marks.looked_for.is_some_and(|tag| message.payload.starts_with(&tag.to_le_bytes()));
        if aimed || found {
            let now = now_ns();
            if aimed {
                marks.at_ns = now;
            }
            if found {
                (marks.found_ns, marks.told_before) = (Some(now), marks.count - 1);
            }
            self.0.1.notify_all();
        }
    }
}

/// A message of `len` bytes that begins with `tag`.
pub(crate) fn tagged(tag: u64, len: u64) -> Vec<u8> {
    let mut bytes = tag.to_le_bytes().to_vec();
    bytes.resize((len as usize).max(bytes.len()), 0);
    bytes
}

/// A member. Dropping it ends the member for the others without a leave.
pub(crate) struct Member {
    pub(crate) group: Group,
    pub(crate) seen: Seen,
}

/// The configuration of `members` members with their logs in a directory.
pub(crate) fn config(members: u64, size: u64, ring_bytes: Option<usize>, directory: &Path) -> Result<Config> {
    let addresses = free_addresses((0..members).map(|_| "127.0.0.1"))?;
    let listed = addresses.into_iter().zip(1..).map(|(address, id)| Listed { id: MemberId(id), address }).collect();
    let mut config = Config::new("bench", FabricKind::Tcp, listed).with_log(LogConfig::new(directory));
    config.ring_bytes = ring_bytes.unwrap_or(config.ring_bytes);
    config.max_message_bytes = Some(size as usize);
    config.failure_timeout_ms = FAILURE_MS;
    config.partition_timeout_ms = 2 * FAILURE_MS;
    config.join_timeout_ms = PATIENCE.as_millis() as u64;
    config.check()?;
    Ok(config)
}

/// Runs `work` for each of `things`, in parallel threads.
pub(crate) fn side_by_side<T: Send, R: Send>(
    things: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = things.into_iter().map(|thing| scope.spawn(move || work(thing))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?).collect()
    })
}

/// Joins all members in parallel. Each one runs `then` as soon as it has joined.
pub(crate) fn join_all(
    config: &Config,
    seen: impl Fn() -> Seen,
    then: impl Fn(&Group) -> Result<()> + Sync,
) -> Result<Vec<Member>> {
    let joining: Vec<_> = config.members.iter().map(|member| (member.id, seen())).collect();
    side_by_side(joining, |(id, seen)| {
        let group = Group::join(config.clone().with_member(id), seen.clone())?;
        then(&group)?;
        Ok(Member { group, seen })
    })
}

/// Every member sends `messages` durable messages and waits until it has delivered those of all members.
///
/// Returns the times of the first send and of the last delivery.
pub(crate) fn send_all(members: &[Member], messages: u64, payload: &[u8]) -> Result<(u64, u64)> {
    let all = messages * members.len() as u64;
    members.iter().for_each(|member| member.seen.aim_at(member.seen.count() + all));
    let start = now_ns();
    let ends = side_by_side(members, |member| {
        for _ in 0..messages {
            member.group.send(MAIN, Mode::Durable, payload, PATIENCE)?;
        }
        member.seen.wait_for_all()
    })?;
    Ok((start, ends.into_iter().max().unwrap_or(start)))
}
