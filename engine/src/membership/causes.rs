//! The reason of an accusation as text, so that members that only relay the accusation can report why.

use super::{Membership, row};
use crate::fabric::{Fabric, Rank, Source};

/// Words of one cause: its length in bytes, then the text.
pub(super) const CAUSE_WORDS: usize = 16;
/// Maximum bytes of a text. A longer text is cut.
const TEXT_MAX: usize = 8 * (CAUSE_WORDS - 1);

fn encode(what: &str) -> Vec<u64> {
    let mut end = what.len().min(TEXT_MAX);
    while !what.is_char_boundary(end) {
        end -= 1;
    }
    let chunks = what.as_bytes()[..end].chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(bytes)
    });
    std::iter::once(end as u64).chain(chunks).collect()
}

fn decode(words: impl Iterator<Item = u64>, len: u64) -> Option<String> {
    let len = usize::try_from(len).ok().filter(|len| (1..=TEXT_MAX).contains(len))?;
    let bytes: Vec<u8> = words.take(len.div_ceil(8)).flat_map(u64::to_le_bytes).take(len).collect();
    // The text comes from another process and is shown to people.
    let text = String::from_utf8_lossy(&bytes).replace(char::is_control, " ");
    Some(text)
}

impl Membership {
    /// Publishes why this member accuses the member of `rank`. Call it before the accusation itself is published.
    pub(super) fn show_cause(&mut self, rank: Rank, what: &str, fabric: &mut dyn Fabric) {
        let (place, words) = (row::CAUSES.at(rank * CAUSE_WORDS), encode(what));
        for (n, &word) in words.iter().enumerate() {
            self.table.store(place.at(n), word);
        }
        self.table.push(fabric, &self.audience, place.0..place.at(words.len()).0, Source::Snapshot);
    }

    /// Why the member of rank `accuser` accuses that of rank `accused` in this epoch, from the accuser's row.
    fn shown_cause(&self, accuser: Rank, accused: Rank) -> Option<String> {
        let slot = self.slot_of(accuser)?;
        let of_this = self.table.load(slot, row::EPOCH) == self.number() + 1;
        let place = row::CAUSES.at(accused * CAUSE_WORDS);
        let words = (1..CAUSE_WORDS).map(|n| self.table.load(slot, place.at(n)));
        decode(words, self.table.load(slot, place)).filter(|_| of_this)
    }

    /// Describes an accusation that another member made.
    pub(super) fn heard_cause(&self, accuser: Rank, accused: Rank) -> String {
        let who = self.view.iter().flat_map(|view| view.members.get(accuser)).map(|member| member.peer.id.to_string());
        let who = who.collect::<String>();
        match self.shown_cause(accuser, accused) {
            Some(why) => format!("member {who} suspects it: {why}"),
            None => format!("member {who} suspects it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_travels_whole_or_cut_and_garbage_is_harmless() {
        let through = |what: &str| {
            let words = encode(what);
            decode(words[1..].iter().copied(), words[0])
        };
        let stands = "its engine has stood still for 2000 ms";
        assert_eq!(through(stands).as_deref(), Some(stands));
        assert_eq!(through(""), None);
        let long = "ä".repeat(100);
        assert_eq!(through(&long), Some("ä".repeat(60)));
        assert_eq!(through(&format!("x{long}")), Some(format!("x{}", "ä".repeat(59))), "cut between characters");
        for len in [0, 121, u64::MAX] {
            assert_eq!(decode([u64::MAX; 15].into_iter(), len), None);
        }
        assert_eq!(decode([u64::MAX; 15].into_iter(), 2).as_deref(), Some("\u{fffd}\u{fffd}"));
        assert_eq!(decode([0x1b0a].into_iter(), 2).as_deref(), Some("  "), "no control characters");
    }
}
