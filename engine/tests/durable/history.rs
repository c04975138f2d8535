//! The deliveries of the members, and the conditions that they must meet.

use std::collections::BTreeMap;
use std::path::Path;

/// A delivery: its number and its text.
pub(crate) type Line = (u64, String);

/// Reads the history in a file; an incomplete last line is left out.
pub(crate) fn read(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| (line.split(' ').nth(1).unwrap().parse().unwrap(), line.to_owned())).collect()
}

/// The durable messages of all lives of all members, by number.
#[derive(Default)]
pub(crate) struct Durable(BTreeMap<u64, String>);

impl Durable {
    /// Adds the deliveries of the members in one life. Earlier durable messages must be in each history, and no two
    /// histories may differ where they overlap.
    pub(crate) fn check(&mut self, round: usize, histories: &[Vec<Line>]) {
        for (who, history) in histories.iter().enumerate() {
            let rising = history.windows(2).all(|pair| pair[0].0 < pair[1].0);
            assert!(rising, "round {round}: member {} was delivered something twice, or out of order", who + 1);
            let by_number: BTreeMap<u64, &String> = history.iter().map(|(number, line)| (*number, line)).collect();
            let last = history.last().map_or(0, |(number, _)| *number);
            // A member that was killed while it was delivered its log has only a part of it.
            for (number, line) in self.0.range(..=last) {
                let found = by_number.get(number).copied();
                assert_eq!(found, Some(line), "round {round}: member {} lost what was durable", who + 1);
            }
        }
        for pair in histories.windows(2) {
            for (a, b) in pair[0].iter().zip(&pair[1]) {
                assert_eq!(a, b, "round {round}: histories differ");
            }
        }
        for (number, line) in histories.iter().flatten() {
            if line.split(' ').nth(3) == Some("d") {
                self.0.insert(*number, line.clone());
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
