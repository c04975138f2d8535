//! A model of how a view ends, checked exhaustively.
//!
//! It was written from the protocol's text, not from the engine, and shares no code with it: where the two agree they
//! agree by themselves. Three members, all voters, go through the end of one epoch: suspicion, wedge, flush, ballots,
//! decision, installation. The checker ([`stateright`]) visits every state that the bounds of a [`Config`] allow, and
//! asks of each:
//!
//! * one decision: no two processes, crashed or not, decide different values;
//! * every member of the decided view has all messages up to the trim, and delivered none beyond it;
//! * what anyone, crashed or removed, delivered as safe is in the trim;
//! * only members of the decided view install it;
//! * where nothing is left that must happen, and the candidates of the live are a majority, each of them has decided.
//!   What must happen: a push of a live member reaches a reader that sees no edge between them (a link that somebody
//!   complained of may be dead); a crash is suspected; flush and proposal go on. No leader may be out of attempts.
//!
//! Each [`Bug`] is a planted mistake; the tests show that each breaks a property. That is what makes the silence of
//! the sound model worth something.
//!
//! # What is modelled
//!
//! * A row is the sequence of its owner's pushes. A peer's copy is a prefix of it, another prefix for each peer: order
//!   per link, and no other order. The pushes that a crash leaves unread may arrive later, or never.
//! * With [`Config::torn`] a reader can stop between any two pushes: a record's words and its guard are three, a wedge
//!   vector and `wedged` are two. Without it a reader stops at guards only, which hides nothing from a reader that
//!   respects them.
//! * A *pass* is what an engine does when it looks: any number of new pushes of one peer (of both with
//!   [`Config::joint`]), then everything that follows. Suspicion, taking in, each fetch, each ballot and each crash are
//!   steps of their own, at any time.
//! * One stream, of member 0. It delivers as early as the rules allow: `ordered` on receipt, `safe` at the minimum of
//!   `received` as seen. A message may still be taken in after its sender crashed, by who is not wedged.
//! * A leader takes a higher ballot when any row shows it a promise above its own, or when it wants another value. It
//!   counts a promise of a higher ballot as one of its own.
//! * [`Config::synod`] explores the ballots alone: all are flushed, and each of the three leads with a value of its
//!   own. By the rule of the lowest rank three members contend too little to tell good ballots from bad ones: rank 0
//!   and one rival, one attempt each.
//!
//! What three members cannot show: a lowest-ranked candidate that lost its place and has it back. Among five, rank 0
//! can be out (edges to 1 and 2), rank 1 prepare a ballot, and rank 0 be back (an edge between 1 and 2) without ever
//! hearing of that ballot: it ends the epoch only if it takes the promises that 3 and 4 show for being overtaken.
//!
//! # What is not
//!
//! Disks, joins, leaves and learners (but [`Config::asks`] wedges members without a suspicion), shards and several
//! streams, ring space, severing, time. A pass reads all its copies at one instant; reading a promise and then, later,
//! the accepted record finds what a pass at the later instant finds. A member that decided neither reads nor accepts
//! any more; its pushes are still read. A dead link needs no step of its own: its pushes come never.
//!
//! # Sizes
//!
//! All suspicions counted are of live members; those of the dead are free. The message is one that only its sender has
//! at the start, but for the ballots alone, where there is none.
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
//! false suspicions did not fit a few minutes. The tests take 70 seconds of processor time, half as much on two cores.
//! What takes minutes is run by hand:
//! `cargo run --release -p galerna-model --example explore -- suspicions=2 asks=1`. The states are told apart by hashes
//! of 64 bits: among 10 million the odds that one is missed are 1 in 400,000.

mod config;
mod epoch;
mod member;
mod row;
mod state;

pub use config::{Bug, Config};
pub use epoch::{Action, Epoch};
pub use row::{Ballot, Members, N, Record, Register, Row, Update, Value};
pub use state::State;
