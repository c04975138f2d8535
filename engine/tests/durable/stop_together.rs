//! Members that all stop at the same moment, as in a power failure. None sees another one end, so all stop in one view.

use super::group::{List, PATIENCE};
use galerna::{Config, Group, MemberId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer than any test takes.
const EVER: Duration = Duration::from_secs(3600);

/// Members that stop together; see the module.
pub(crate) struct StopTogether {
    pub(crate) members: Vec<(Group, List)>,
    over: Arc<AtomicBool>,
    engines: Vec<JoinHandle<()>>,
}

impl StopTogether {
    pub(crate) fn join(config: &Config, ids: &[u32]) -> StopTogether {
        let (over, together) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(ids.len())));
        let (mut engines, mut joins) = (Vec::new(), Vec::new());
        for &id in ids {
            let (config, list) = (config.clone().with_member(MemberId(id)), List::default());
            let (over, together, (told, joined)) = (over.clone(), together.clone(), sync_channel(1));
            engines.push(std::thread::spawn(move || {
                let (group, mut driver) = Group::join_driven(config, list.clone()).unwrap();
                told.send((group, list)).unwrap();
                // If the driver stopped early, the group reports the reason.
                let _ = driver.wait(EVER, || over.load(Ordering::SeqCst));
                together.wait();
            }));
            joins.push(joined);
        }
        let members = joins.iter().map(|joined| joined.recv_timeout(PATIENCE).unwrap()).collect();
        StopTogether { members, over, engines }
    }

    /// Ends all members; only their logs are left.
    pub(crate) fn end(self) {}
}

impl Drop for StopTogether {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let ended: Vec<_> = self.engines.drain(..).map(JoinHandle::join).collect();
        assert!(std::thread::panicking() || ended.iter().all(Result::is_ok));
    }
}
