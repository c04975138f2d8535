//! A model of how a view ends, checked exhaustively.
//!
//! The model was written from the protocol's text, not from the engine, and shares no code with it, so that each
//! checks the other. Three members, all voters, go through the end of one epoch: suspicion, wedge, flush, ballots,
//! decision, installation. The checker ([`stateright`]) visits every state that the bounds of a [`Config`] allow, and
//! checks in each:
//!
//! * one decision: no two processes, crashed or not, decide different values;
//! * every member of the decided view has all messages up to the trim, and delivered none beyond it;
//! * every message that a member, crashed or removed, delivered as safe is in the trim;
//! * only members of the decided view install it;
//! * if no action is left that must happen, and the candidates of the live members are a majority, each of them has
//!   decided. These actions must happen: a push of a live member reaches a reader that sees no edge between them (a
//!   link that a member has complained of may be dead); a crash is suspected; flush and proposal continue. No leader
//!   may run out of attempts.
//!
//! Each [`Bug`] is a planted mistake. The tests show that each one breaks a property, and so that the properties can
//! fail at all.
//!
//! # Scope
//!
//! * A row is the sequence of its owner's pushes. A peer's copy is a prefix of it, and each peer may have another
//!   prefix: pushes are ordered per link only. Pushes that are unread at a crash may arrive later, or never.
//! * With [`Config::torn`] a reader can stop between any two pushes: a record's words and its guard are three, a wedge
//!   vector and `wedged` are two. Without it a reader stops at guards only, which hides nothing from a reader that
//!   respects them.
//! * A *pass* of an engine reads any number of new pushes of one peer (of both with [`Config::joint`]), then does
//!   everything that follows from them. Suspicions, receipts, fetches, ballots and crashes are separate steps, at any
//!   time.
//! * There is one stream, of member 0. Messages are delivered as early as the rules allow: `ordered` on receipt, `safe`
//!   at the minimum of `received` as seen. A member that is not wedged may receive a message after its sender crashed.
//! * A leader takes a higher ballot when any row shows it a promise above its own, or when it wants another value. It
//!   counts a promise of a higher ballot as one of its own.
//! * [`Config::synod`] explores only the ballots: all members are flushed, and each of the three leads with a value of
//!   its own. Under the rule of the lowest rank, three members contend too little to reveal wrong ballots: only rank 0
//!   and one rival, one attempt each.
//!
//! Three members cannot show a lowest-ranked candidate that is excluded and comes back. Among five, rank 0 can be
//! excluded (edges to 1 and 2), rank 1 prepare a ballot, and rank 0 come back (an edge between 1 and 2) without ever
//! reading that ballot: it ends the epoch only if it takes the promises of 3 and 4 as a sign that it was overtaken.
//!
//! # Left out
//!
//! Disks, joins, leaves and learners (except that [`Config::asks`] wedges members without a suspicion), shards and
//! several streams, ring space, severing, time. A pass reads all its copies at one instant. An engine may read a promise
//! and later the accepted record, and then finds the same as a pass at the later instant. A member that has decided
//! neither reads nor accepts any more, but its pushes are still read. A dead link needs no step of its own: its pushes
//! never arrive.
//!
//! # Sizes
//!
//! Only suspicions of live members are counted. At the start, one message exists, which only its sender has; if only the
//! ballots are explored, there is none.
//!
//! | | suspicions | crashes | attempts | states | steps |
//! |---|---|---|---|---|---|
//! | test | 1 | 1 | any | 299,508 | 2.4 million |
//! | test: torn, joint | 1 | 1 | any | 1,001,178 | 31 million |
//! | test: asks | 1 | 1 | any | 2,887,874 | 25 million |
//! | test, with `GALERNA_LONG` | 2 | 1 | any | 7,198,873 | 79 million |
//! | test: ballots | 0 | 0 | 2, 1, 1 | 342,339 | 3.6 million |
//! | test: ballots, torn, joint | 0 | 0 | 1 | 460,828 | 21 million |
//! | by hand | 2 | 2 | any | 7,828,895 | 91 million |
//! | by hand: asks | 2 | 0 | any | 29,069,329 | 324 million |
//! | by hand: received 2, 1, 0 | 2 | 0 | any | 5,866,187 | 63 million |
//! | by hand: ballots | 0 | 0 | 2, 2, 1 | 3,528,524 | 45 million |
//! | by hand: ballots | 0 | 1 | 2, 2, 1 | 23,530,446 | 284 million |
//!
//! "Any": four (by hand three) were allowed, and three give the same states as four wherever both were tried. Three
//! false suspicions take more than a few minutes. The tests take 70 seconds of processor time, half as much on two
//! cores. Longer explorations are run by hand:
//! `cargo run --release -p galerna-model --example explore -- suspicions=2 asks=1`. States are distinguished by hashes
//! of 64 bits: among 10 million states, one is missed with a probability of 1 in 400,000.

mod config;
mod epoch;
mod member;
mod row;
mod state;

pub use config::{Bug, Config};
pub use epoch::{Action, Epoch};
pub use row::{Ballot, Members, N, Record, Register, Row, Update, Value};
pub use state::State;
