//! Protocol bugs for the simulator to find, planted one at a time.
//!
//! They do not exist in the product: outside the engine's own tests [`is`] is a constant.

/// A bug to plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The counters are pushed before the data they guard.
    CounterBeforeData,
    /// The source of the counters is read late, so that they can overtake their data.
    LateCounter,
    /// One null too few is published.
    NullOffByOne,
    /// Ring bytes are reused one message before all members have delivered them.
    ReuseEarly,
    /// Ring bytes are reused after only the first of the two data writes at a wrap has completed.
    FirstRangeOnly,
    /// Padding of dropped reservations is not covered by a null.
    PaddingUncovered,
    /// The trim is the smallest end that a candidate has, instead of the largest.
    TrimByMinimum,
    /// The leader proposes before all candidates have flushed.
    ProposeUnflushed,
    /// A new leader proposes its own value although another may have been decided.
    IgnoreAccepted,
    /// A value is accepted although a higher ballot was promised.
    AcceptAfterPromise,
    /// Acceptances of different ballots are counted together.
    MajorityAcrossBallots,
    /// A promise is seen before the acceptance that preceded it.
    PromiseBeforeAccepted,
    /// A fetched frame is delivered before the decision.
    FetchedEarly,
    /// Messages that a removed member writes after the decision are delivered.
    LateWrite,
    /// On shared memory, a sender continues in the same memory after a member has departed.
    RingKept,
    /// On shared memory, frames are published in new memory that a peer does not have yet.
    MemoryUnawaited,
    /// `persisted` moves before the disk has the message.
    PersistedBeforeSync,
    /// A durable message is delivered before it is durable.
    DeliverBeforeDurable,
    /// A vote is published before it is on disk, and is never saved.
    VoteBeforeSaved,
    /// The node publishes a vote without waiting for the disk.
    ShowBeforeSaved,
    /// The node publishes the end of its flush without waiting until the disk has the tail.
    FlushBeforeSaved,
    /// The node enters and publishes a view without waiting until the disk has the decision.
    ViewBeforeSaved,
    /// The disk of a leaver has the decision before the disks of the members that stay.
    LeaverSavesFirst,
    /// After a total failure, the shortest log counts.
    RestartFromShortest,
    /// The remains of a record after a crash are taken for a whole record.
    TornTailTaken,
    /// An accusation is withdrawn by clearing it, so that an older row brings it back.
    WithdrawnByClearing,
    /// After a relink, a sender's frames are assumed to be here because its `WEDGED` is.
    RelinkedIsHere,
    /// After a relink, the row is not pushed again, so changes during the outage are never seen.
    RelinkWithoutRow,
    /// The ends of the first subgroup's streams are taken for those of the second, and the other way round.
    EndsMixedUp,
    /// A member stamps its messages with its host's clock, even if that is far off.
    ClocksUncorrected,
    /// A restarting member keeps its host's time from before the other members have shown their clocks.
    RestartByOwnClock,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants `bug` in everything that this thread runs.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether `bug` is planted.
#[cfg(test)]
#[inline]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether `bug` is planted: never.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static STEP: std::cell::RefCell<Option<Box<dyn FnMut()>>> = const { std::cell::RefCell::new(None) };
}

/// Sets a hook that this thread runs at every load and store of a table. On shared memory other processes run between
/// any two.
#[cfg(test)]
pub(crate) fn at_every_step(what: Option<Box<dyn FnMut()>>) {
    STEP.set(what);
}

/// Runs the hook at a load or a store of a table.
#[cfg(test)]
#[inline]
pub(crate) fn step() {
    // The hook's own loads and stores do not run the hook again.
    if let Some(mut what) = STEP.take() {
        what();
        STEP.set(Some(what));
    }
}

/// A hook that looks at the next action of a node.
#[cfg(test)]
pub(crate) type ActionHook = Box<dyn FnMut(&crate::membership::Action)>;

#[cfg(test)]
thread_local! {
    static ACTION: std::cell::RefCell<Option<ActionHook>> = const { std::cell::RefCell::new(None) };
}

/// Sets a hook that this thread runs before each action that the membership wants of a node.
#[cfg(test)]
pub(crate) fn at_every_action(what: Option<ActionHook>) {
    ACTION.set(what);
}

/// Runs the hook before an action. The hook's own actions do not run it again.
#[cfg(test)]
pub(crate) fn before_action(action: &crate::membership::Action) {
    if let Some(mut what) = ACTION.take() {
        what(action);
        ACTION.set(Some(what));
    }
}

/// Never in the product.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn before_action(_: &crate::membership::Action) {}

#[cfg(test)]
thread_local! {
    static DUEL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Makes every member take itself for the leader, with a value of its own to propose.
#[cfg(test)]
pub(crate) fn let_everybody_lead(all: bool) {
    DUEL.set(all);
}

/// See [`let_everybody_lead`].
#[cfg(test)]
pub(crate) fn everybody_leads() -> bool {
    DUEL.get()
}

/// Never in the product.
#[cfg(not(test))]
pub(crate) const fn everybody_leads() -> bool {
    false
}
