//! Protocol bugs that the simulator must catch, planted one at a time. In the product they do not exist: outside the
//! engine's own tests [`is`] is constant.

/// A bug to plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The counters are pushed before the data they guard.
    CounterBeforeData,
    /// The counters' source is read late, so that they can overtake their data.
    LateCounter,
    /// A null too few is published.
    NullOffByOne,
    /// Ring bytes are reused one message before everybody has delivered them.
    ReuseEarly,
    /// Of the two data writes at a wrap, only the first is waited for before ring bytes are reused.
    FirstRangeOnly,
    /// Padding of dropped reservations is not covered by a null.
    PaddingUncovered,
    /// The trim is the least that a candidate has, not the most.
    TrimByMinimum,
    /// The leader proposes before all candidates are flushed.
    ProposeUnflushed,
    /// A new leader proposes its own value although another may have been decided.
    IgnoreAccepted,
    /// A value is accepted although a higher ballot was promised.
    AcceptAfterPromise,
    /// Acceptances of different ballots are counted together.
    MajorityAcrossBallots,
    /// A promise is seen before the acceptance that came before it.
    PromiseBeforeAccepted,
    /// A fetched frame is delivered before the decision.
    FetchedEarly,
    /// What a member that was removed writes after the decision is delivered.
    LateWrite,
    /// On shared memory a sender goes on in the same memory when a member has departed.
    RingKept,
    /// `persisted` moves before the disk has it.
    PersistedBeforeSync,
    /// A durable message is delivered before it is durable.
    DeliverBeforeDurable,
    /// A vote is shown before the disk has it.
    VoteBeforeSaved,
    /// After a total failure the shortest log counts.
    RestartFromShortest,
    /// What a crash left of a record is taken for the record.
    TornTailTaken,
    /// An accusation is withdrawn by clearing it, so that an older row brings it back.
    WithdrawnByClearing,
    /// After a link was made again a sender's frames are taken to be here because its `WEDGED` is.
    RelinkedIsHere,
    /// After a link was made again the row is not pushed again: what changed meanwhile is never seen.
    RelinkWithoutRow,
    /// A member dates its messages by its host's clock, however far that is off.
    ClocksUncorrected,
    /// What the host's clock says before the others have shown theirs stays a restarting member's time.
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

/// What is to happen at every load and store of a table by this thread: on shared memory others run between any two.
#[cfg(test)]
pub(crate) fn at_every_step(what: Option<Box<dyn FnMut()>>) {
    STEP.set(what);
}

/// A load or a store of a table.
#[cfg(test)]
#[inline]
pub(crate) fn step() {
    // What happens there takes steps of its own, at which nothing happens.
    if let Some(mut what) = STEP.take() {
        what();
        STEP.set(Some(what));
    }
}

#[cfg(test)]
thread_local! {
    static DUEL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Every member takes itself for the leader, and has a value of its own to propose.
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
