//! The header page: how a member tells its peers that it posted something, and that it sleeps.
//!
//! The owner alone writes its page; the peers map it to read. A peer that posts wakes a sleeper by its eventfd.
//!
//! No wake-up is lost, because poster and sleeper each store, fence and then look at the other's word: of the two
//! SeqCst fences one is first, and who comes second sees the other's store.
//!
//! | poster ([`Header::post`], [`Header::sleeping`]) | sleeper ([`Header::sleep`], [`Header::posts`]) |
//! |---|---|
//! | bump its `posts` word for the peer | store an odd generation |
//! | fence | fence |
//! | load the peer's generation; odd: write its eventfd | load the peers' `posts`; changed: do not sleep |

use super::super::{Row, SLOTS, Slot};
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Bytes of the page.
pub(super) const HEADER_LEN: usize = 4096;
/// The generation of the owner's sleep: odd while it sleeps.
const GENERATION: usize = 0;
/// One word per slot, how often the owner posted to it; apart from the generation, which others read when they post.
const POSTS: usize = 128;
/// One word per table, the epoch of its row's memory.
const EPOCHS: usize = POSTS + 8 * SLOTS;
/// Tables, at most.
pub(super) const TABLES_MAX: usize = (HEADER_LEN - EPOCHS) / 8;

/// One member's header page, its own or a peer's.
pub(super) struct Header(pub(super) Row);

impl Header {
    /// Announces to `peer` that something was stored. The caller is the page's owner, and calls
    /// [`Header::fence_posts`] before it asks whether the peer sleeps.
    pub(super) fn post(&self, peer: Slot) {
        post(self.0.word(POSTS + 8 * peer));
    }

    /// How often the page's owner has posted to `me`; what it stored before is visible.
    pub(super) fn posts(&self, me: Slot) -> u64 {
        posts(self.0.word(POSTS + 8 * me))
    }

    /// The owner has given the row of the table at this position new memory.
    pub(super) fn renew(&self, table: usize, epoch: u64) {
        self.0.word(EPOCHS + 8 * table).store(epoch, Ordering::Release);
    }

    /// The epoch of the memory of the owner's row.
    pub(super) fn epoch(&self, table: usize) -> u64 {
        self.0.word(EPOCHS + 8 * table).load(Ordering::Acquire)
    }

    /// Between posts and [`Header::sleeping`]: the poster's fence of the table above.
    pub(super) fn fence_posts() {
        AtomicU64::fence();
    }

    /// The generation of the owner's sleep, if it sleeps.
    pub(super) fn sleeping(&self) -> Option<u64> {
        sleeping(self.0.word(GENERATION))
    }

    /// The owner is going to sleep, or to sleep on: a new odd generation, so that each peer wakes it again, once.
    pub(super) fn sleep(&self) {
        sleep(self.0.word(GENERATION));
    }

    /// The owner is awake.
    pub(super) fn awake(&self) {
        awake(self.0.word(GENERATION));
    }
}

/// The words of the page, or loom's.
trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    /// SeqCst.
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

/// Release: pairs with [`posts`], so that who sees the post sees the stores before it.
fn post(word: &impl Word) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
}

/// Acquire: see [`post`].
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

/// Needs no order: a peer that sees it late wakes in vain.
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

    /// Two posts against a sleeper that looks at its descriptor in between: when it would sleep, either it has seen all
    /// posts, with what they announce, or its descriptor is or will be readable.
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
