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

use super::super::{Rank, Row};
use crate::config::MEMBERS_MAX;
use std::sync::atomic::{Ordering, fence};

/// Bytes of the page.
pub(super) const HEADER_LEN: usize = 4096;
/// The generation of the owner's sleep: odd while it sleeps.
const GENERATION: usize = 0;
/// One word per rank, how often the owner posted to it; apart from the generation, which others read when they post.
const POSTS: usize = 128;
const _: () = assert!(POSTS + 8 * MEMBERS_MAX <= HEADER_LEN);

/// One member's header page, its own or a peer's.
pub(super) struct Header(pub(super) Row);

impl Header {
    /// Announces to `peer` that something was stored. Release: pairs with [`Header::posts`], so that who sees the post
    /// sees the stores before it. The caller is the page's owner, and fences before it asks whether the peer sleeps.
    pub(super) fn post(&self, peer: Rank) {
        let word = self.0.word(POSTS + 8 * peer);
        word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// How often the page's owner has posted to `me`. Acquire: see [`Header::post`].
    pub(super) fn posts(&self, me: Rank) -> u64 {
        self.0.word(POSTS + 8 * me).load(Ordering::Acquire)
    }

    /// Between posts and [`Header::sleeping`]: the poster's fence of the table above.
    pub(super) fn fence_posts() {
        fence(Ordering::SeqCst);
    }

    /// The generation of the owner's sleep, if it sleeps.
    pub(super) fn sleeping(&self) -> Option<u64> {
        Some(self.0.word(GENERATION).load(Ordering::Relaxed)).filter(|generation| generation % 2 == 1)
    }

    /// The owner is going to sleep, or to sleep on: a new odd generation, so that each peer wakes it again, once.
    pub(super) fn sleep(&self) {
        let word = self.0.word(GENERATION);
        let generation = word.load(Ordering::Relaxed);
        word.store(generation.wrapping_add(1) | 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake. Needs no order: a peer that sees it late wakes in vain.
    pub(super) fn awake(&self) {
        let word = self.0.word(GENERATION);
        let generation = word.load(Ordering::Relaxed);
        word.store(generation.wrapping_add(generation % 2), Ordering::Relaxed);
    }
}
