//! Wakes threads that wait for ring space, a delivery or a flush.

use super::app::App;
use crate::node::Node;
use crate::shared::wait::Pending;

/// Number of flushes to check before the engine checks how long the pass has lasted.
const FLUSHES_PER_LOOK: usize = 64;

/// Counts of the node that grow when a waiting thread may go on: how often ring space was freed, and how many messages
/// of this process were delivered.
#[derive(Default, PartialEq, Eq)]
struct Seen {
    freed: u64,
    delivered: u64,
}

/// The threads that wait for the node's progress.
#[derive(Default)]
pub(super) struct Waiters {
    flushes: Vec<Pending>,
    /// The progress of the node as of the latest check.
    seen: Seen,
}

impl Waiters {
    /// Takes new flushes.
    pub(super) fn append(&mut self, flushes: &mut Vec<Pending>) {
        self.flushes.append(flushes);
    }

    /// Wakes threads whose wait is over.
    pub(super) fn serve(&mut self, node: &Node, app: &App) {
        let multicast = node.multicast();
        let seen = Seen { freed: multicast.freed(), delivered: multicast.own_delivered() };
        if self.seen != seen {
            self.seen = seen;
            app.shared.note_progress();
        }
        self.check_flushes(node, app);
    }

    /// Checks the pending flushes in turn, for as long as a pass may last.
    fn check_flushes(&mut self, node: &Node, app: &App) {
        let (before, slice) = (self.flushes.len(), app.shared.pulse.begin());
        let (mut checked, mut kept, mut over) = (0, 0, false);
        self.flushes.retain_mut(|flush| {
            if over {
                return true;
            }
            let keep = !flush.check(node);
            (checked, kept) = (checked + 1, kept + usize::from(keep));
            over = checked % FLUSHES_PER_LOOK == 0 && slice.is_over();
            keep
        });
        if over {
            self.flushes.rotate_left(kept);
            app.shared.ask();
        }
        if self.flushes.len() != before {
            app.shared.notify();
        }
    }
}
