//! The header page: through it a member announces its posts to the peers, and shows whether it sleeps.
//!
//! Only the owner writes its page; the peers map it read-only. A peer that posts wakes a sleeper through its eventfd.
//!
//! No wake-up is lost, because poster and sleeper each store, fence, and then load the other's word. One of the two
//! SeqCst fences comes first, and the side with the second fence sees the other side's store.
//!
//! | poster ([`Header::post`], [`Header::sleeping`]) | sleeper ([`Header::sleep`], [`Header::posts`]) |
//! |---|---|
//! | increment its `posts` word for the peer | store an odd generation |
//! | fence | fence |
//! | load the peer's generation; if odd, write its eventfd | load the peers' `posts`; if changed, do not sleep |

use super::super::{Row, SLOTS, Slot};
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Bytes of the page.
pub(super) const HEADER_LEN: usize = 4096;
/// Offset of the generation of the owner's sleep, which is odd while the owner sleeps.
const GENERATION: usize = 0;
/// Offset of one word per slot: the number of the owner's posts to it. On another cache line than the generation, which
/// the peers read whenever they post.
const POSTS: usize = 128;
/// Offset of one word per table: the epoch of its row's memory.
const EPOCHS: usize = POSTS + 8 * SLOTS;
/// The maximum number of tables.
pub(super) const TABLES_MAX: usize = (HEADER_LEN - EPOCHS) / 8;

/// One member's header page, the own or a peer's.
pub(super) struct Header(pub(super) Row);

impl Header {
    /// Announces to `peer` that something was stored.
    ///
    /// The caller owns the page, and calls [`Header::fence_posts`] before it checks whether the peer sleeps.
    pub(super) fn post(&self, peer: Slot) {
        post(self.0.word(POSTS + 8 * peer));
    }

    /// The number of posts from the page's owner to `me`. Everything that the owner stored before the last one is
    /// visible.
    pub(super) fn posts(&self, me: Slot) -> u64 {
        posts(self.0.word(POSTS + 8 * me))
    }

    /// Shows that the owner has given the row of the table at this position new memory.
    pub(super) fn renew(&self, table: usize, epoch: u64) {
        self.0.word(EPOCHS + 8 * table).store(epoch, Ordering::Release);
    }

    /// The epoch of the memory of the owner's row.
    pub(super) fn epoch(&self, table: usize) -> u64 {
        self.0.word(EPOCHS + 8 * table).load(Ordering::Acquire)
    }

    /// The fence between posts and [`Header::sleeping`]: the poster's fence of the table above.
    pub(super) fn fence_posts() {
        AtomicU64::fence();
    }

    /// The generation of the owner's sleep, if it sleeps.
    pub(super) fn sleeping(&self) -> Option<u64> {
        sleeping(self.0.word(GENERATION))
    }

    /// Marks the owner as asleep with a new odd generation, so that each peer wakes it once more. Called again to
    /// continue a sleep.
    pub(super) fn sleep(&self) {
        sleep(self.0.word(GENERATION));
    }

    /// Marks the owner as awake.
    pub(super) fn awake(&self) {
        awake(self.0.word(GENERATION));
    }
}

/// A word of the page, or loom's model of one.
trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    /// A SeqCst fence.
    fn fence();
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// Release: pairs with [`posts`], so that a reader that sees the post also sees the stores before it.
fn post(word: &impl Word) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
}

/// Acquire: pairs with [`post`].
fn posts(word: &impl Word) -> u64 {
    word.load(Ordering::Acquire)
}

fn sleeping(word: &impl Word) -> Option<u64> {
    Some(word.load(Ordering::Relaxed)).filter(|generation| generation % 2 == 1)
}

/// Ends with the sleeper's fence of the table above.
fn sleep<W: Word>(word: &W) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(1) | 1, Ordering::Relaxed);
    W::fence();
}

/// Needs no order: a peer that sees it late sends one needless wake-up.
fn awake(word: &impl Word) {
    let generation = word.load(Ordering::Relaxed);
    word.store(generation.wrapping_add(generation % 2), Ordering::Relaxed);
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test --lib loom_`.
#[cfg(all(test, loom))]
mod tests {
    use super::{Word, post, posts, sleep, sleeping};
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, Ordering, fence};

    impl Word for AtomicU64 {
        fn load(&self, order: Ordering) -> u64 {
            self.load(order)
        }
        fn store(&self, value: u64, order: Ordering) {
            self.store(value, order);
        }
        fn fence() {
            fence(Ordering::SeqCst);
        }
    }

    #[derive(Default)]
    struct Memory {
        row: AtomicU64,
        posts: AtomicU64,
        generation: AtomicU64,
        /// The eventfd, which the kernel makes sequentially consistent.
        wakes: AtomicU64,
    }

    /// Two posts race with a sleeper that checks its descriptor in between. When the sleeper would sleep, either it has
    /// seen both posts and the stores that they announce, or its descriptor is or becomes readable.
    #[test]
    fn loom_no_wake_up_is_lost() {
        loom::model(|| {
            let memory = Arc::new(Memory::default());
            let shared = memory.clone();
            let poster = loom::thread::spawn(move || {
                let mut woken = 0;
                for value in 1..=2 {
                    shared.row.store(value, Ordering::Relaxed);
                    post(&shared.posts);
                    AtomicU64::fence();
                    if let Some(generation) = sleeping(&shared.generation).filter(|g| *g != woken) {
                        woken = generation;
                        shared.wakes.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
            sleep(&memory.generation);
            let taken = memory.wakes.load(Ordering::SeqCst);
            if taken > 0 {
                sleep(&memory.generation);
            }
            let seen = posts(&memory.posts);
            assert!(memory.row.load(Ordering::Relaxed) >= seen);
            poster.join().unwrap();
            assert!(
                seen == 2 || memory.wakes.load(Ordering::SeqCst) > taken,
                "asleep for ever, with {seen} posts seen"
            );
        });
    }
}
