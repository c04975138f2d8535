//! Wakes threads that wait for ring space, a delivery or a flush.

use super::app::App;
use crate::node::Node;
use crate::shared::wait::Pending;
use crate::types::EVERYBODY;

/// Number of flushes to check before the engine checks how long the pass has lasted.
const FLUSHES_PER_LOOK: usize = 64;

/// The threads that wait for the node's progress.
#[derive(Default)]
pub(super) struct Waiters {
    flushes: Vec<Pending>,
    /// How often the node has freed ring space, as of the latest check.
    freed: u64,
    /// How many messages of this process were delivered and are durable, as of the latest check.
    progress: (u64, u64),
}

impl Waiters {
    /// Takes new flushes.
    pub(super) fn append(&mut self, flushes: &mut Vec<Pending>) {
        self.flushes.append(flushes);
    }

    /// Whether messages of this process were delivered or became durable since the latest check.
    pub(super) fn is_due(&self, node: &Node) -> bool {
        self.progress != node.subgroup(EVERYBODY).own_progress()
    }

    /// Wakes the threads that can go on.
    pub(super) fn serve(&mut self, node: &Node, app: &App) {
        let freed = node.subgroup(EVERYBODY).freed();
        if std::mem::replace(&mut self.freed, freed) != freed {
            app.shared.space_freed();
        }
        let progress = node.subgroup(EVERYBODY).own_progress();
        if std::mem::replace(&mut self.progress, progress) != progress {
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
