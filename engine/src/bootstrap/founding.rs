//! Founds the group together with all other founders, unless the group runs already.

use crate::app::Handler;
use crate::bootstrap::idle::Idle;
use crate::bootstrap::join::{Attempt, Durable, Ready, Wake, incarnation, node, specs};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::fabric::SetupError;
use crate::log::wall_ns;
use crate::meet;
use crate::meet::listen::Listening;
use crate::meet::outside::{Outside, Surroundings};
use crate::membership::Peer;
use crate::multicast::Origin;
use crate::peers::acceptor::LocalIdentity;
use crate::peers::contacts::Contacts;
use crate::peers::linking;
use crate::peers::log_store::LogStore;
use crate::process::Private;
use crate::thread::{self, OWN_STACK_BYTES};
use crate::types::MemberId;
use socket2::Socket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pause between two checks whether the group runs without this process.
const WATCH_TIME: Duration = Duration::from_secs(1);
/// The pause instead, while a process other than a founder must answer first.
const WAITING_TIME: Duration = Duration::from_millis(200);

/// A process that may found the group.
pub(crate) struct Founder<'c> {
    pub(crate) config: &'c Config,
    pub(crate) rank: usize,
    pub(crate) deadline: &'c Deadline,
}

impl Founder<'_> {
    /// Founds the group together with all other founders.
    ///
    /// Returns `Again` if the group runs already, or if the founding failed: when a founder fails or is started again,
    /// the others continue to try until their deadline. `obstacle` is the reason, as of the latest check, why the group
    /// must not be founded.
    pub(crate) fn found_or_join(
        &self,
        mut store: Option<&mut LogStore>,
        listening: Listening,
        handler: Box<dyn Handler>,
        contacts: &mut Contacts,
        obstacle: Option<String>,
    ) -> Result<Attempt, Error> {
        let outside = Arc::new(Outside::new(obstacle));
        let ready = match self.found(store.as_deref_mut(), listening, contacts, &outside) {
            Ok(ready) => ready,
            Err(Error::AlreadyRuns { .. }) => {
                outside.ways().iter().for_each(|way| contacts.add(way));
                return Ok(Attempt::Again(handler, "the group runs already".to_owned()));
            }
            Err(Error::Missing { missing, .. }) => return Ok(Attempt::Again(handler, missing)),
            Err(error) => return Err(error),
        };
        let (shared, mut driver) = ready.start(self.config, handler)?;
        shared.founding.store(true, Ordering::Relaxed);
        let missing = match driver.install(self.deadline.cancel(), |_| false) {
            Ok(_) => return Ok(Attempt::Joined(shared, Box::new(driver))),
            Err(Error::Missing { missing, .. }) => missing,
            Err(error) => return Err(error),
        };
        let again = Attempt::again(driver, missing);
        // No other process was shown this log, which contains nothing yet.
        store.map_or(Ok(()), |store| store.discard_empty())?;
        again
    }

    /// Meets the founders. Each founder's slot is its rank.
    fn found(
        &self,
        store: Option<&mut LogStore>,
        listening: Listening,
        contacts: &Contacts,
        outside: &Arc<Outside>,
    ) -> Result<Ready, Error> {
        let Founder { config, rank, deadline } = *self;
        let me = config.members[rank].id;
        let idle = Idle::new(config, contacts, "this process founds the group")?;
        let answer = |question: &[u8]| idle.answer(question);
        let around =
            Surroundings { outside: outside.clone(), former: contacts.former_addresses(), answer: Some(&answer) };
        let watch = Watch::start(self, me, contacts, outside.clone())?;
        let meet::Met { mut streams, incarnations, listening } =
            meet::meet::<Private<Socket>>(config, rank, incarnation(), deadline.clone(), listening, around)?;
        drop(watch);
        let kind = linking::agree(config, &specs(config), &mut streams, deadline)?;
        let (fabric, own, linking) = linking::new_fabric(config, kind, rank, &specs(config))?;
        let streams = streams.into_iter().enumerate().filter_map(|(slot, stream)| Some((slot, stream?)));
        let links = linking.link(streams.collect(), deadline).map_err(|error| self.set_up_error(error))?;
        let ids = config.members.iter().map(|member| member.id).enumerate();
        let founders: Vec<Peer> =
            ids.zip(&incarnations).map(|((slot, id), &incarnation)| Peer { slot, id, incarnation }).collect();
        let mut node = node(config, founders[rank], fabric, own, deadline.at())?;
        let mut durable = None;
        if let Some(store) = store {
            let (log, wake) = (store.of(incarnations[0])?, Wake::default());
            node = node.with_journal(Box::new(log.journal(wake.call())));
            durable = Some(Durable { log, wake, release: None });
        }
        for (slot, connection) in links {
            node.set_wall_clock(wall_ns());
            node.attach(founders[slot], 0, connection)?;
        }
        node.found(&founders, Origin::default());
        let addresses = incarnations.iter().zip(&config.members).map(|(&i, member)| (i, member.address.clone()));
        let (me, addresses) = (founders[rank], addresses.collect());
        let sign = LocalIdentity::new(config, incarnations[0], me, &config.members[rank].address, linking);
        Ok(Ready {
            node,
            me,
            sign,
            addresses,
            places: Vec::new(),
            listening,
            durable,
            restarts: None,
            deadline: deadline.at(),
        })
    }

    fn set_up_error(&self, error: SetupError) -> Error {
        // If a founder misbehaved or its link broke, a local error there may be the cause. It may come again.
        let faults = match error {
            SetupError::Peer(fault) => vec![fault],
            SetupError::Missing(faults) => faults,
            SetupError::Local(error) => return error,
        };
        let missing = faults.iter().map(|f| format!("member {} ({})", self.config.members[f.peer].id, f.what));
        Error::Missing { missing: missing.collect::<Vec<_>>().join(", "), after_ms: self.config.join_timeout_ms }
    }
}

/// Checks repeatedly, while the founders meet, whether the group runs already and whether something forbids founding.
///
/// The checks are needed because a running group does not look for a member that was restarted.
struct Watch {
    over: Arc<AtomicBool>,
}

impl Watch {
    fn start(by: &Founder<'_>, me: MemberId, known: &Contacts, outside: Arc<Outside>) -> Result<Watch, Error> {
        let deadline = by.deadline.clone();
        let over = Arc::new(AtomicBool::new(false));
        // The thread has its own contacts, because it may still be in the middle of a check when the meeting ends.
        let (seen, mut contacts) = (over.clone(), Contacts::new(by.config, None)?);
        known.addresses().iter().for_each(|address| contacts.add(address));
        let watch = move || {
            let mut waits = outside.obstacle().is_some();
            loop {
                let until = Instant::now() + if waits { WAITING_TIME } else { WATCH_TIME };
                while Instant::now() < until && outside.former().is_empty() {
                    if seen.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::sleep(WAITING_TIME / 4);
                }
                let former = outside.former();
                for (address, member) in &former {
                    contacts.require(
                        address,
                        &format!("the member at {address}, which was in the group with member {member}"),
                    );
                }
                match contacts.look(Some(me), &deadline) {
                    Ok(look) if !look.runs => {
                        waits = look.obstacle.is_some();
                        outside.set_obstacle(look.obstacle);
                        outside.asked(&former);
                    }
                    Ok(_) => return outside.runs(contacts.ways()),
                    // This ends the meeting. The next check of the joining thread then returns this error, too.
                    Err(_) => return outside.runs(contacts.addresses()),
                }
            }
        };
        thread::spawn("galerna-watch", "looks for a running group", OWN_STACK_BYTES, watch)?;
        Ok(Watch { over })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
