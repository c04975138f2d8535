//! The progress of the log, which the handles show and of which the application is notified.

use super::app::App;
use super::newcomer::Newcomer;
use crate::app::Frontiers;
use crate::node::{Node, Phase};
use crate::types::EVERYBODY;

/// The progress of the log as of the latest check.
#[derive(Default)]
pub(super) struct Progress {
    frontiers: Frontiers,
    /// The durable frontier of which the application was last notified.
    notified_durable: u64,
}

impl Progress {
    /// Updates the visible progress, and notifies the application.
    pub(super) fn show(&mut self, node: &mut Node, app: &mut App, newcomer: &Newcomer) {
        if !app.shared.logs() {
            return;
        }
        let view = node.view().map_or(0, |view| view.number);
        let (stable, persisted) = node.subgroup(EVERYBODY).logged();
        let durable = node.subgroup(EVERYBODY).durable();
        let persisted_all = node.subgroup(EVERYBODY).persisted_by_all();
        let now = Frontiers { view, stable, persisted, persisted_all, durable, closed_ns: node.closed_ns(EVERYBODY) };
        let before = std::mem::replace(&mut self.frontiers, now);
        if !matches!(node.phase(), Phase::Running | Phase::Leaving) {
            return;
        }
        if before != now {
            app.shared.lock().frontiers = now;
            app.shared.notify();
        }
        // This includes messages that became durable while the log was replayed to the application.
        if durable > self.notified_durable && !newcomer.is_new() {
            self.notified_durable = durable;
            app.call(node, |handler| handler.durable(durable));
        }
    }
}
