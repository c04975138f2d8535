//! What must be in the map after a crash: of each key, all changes that were acknowledged, and perhaps some that were not.

use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// The changes of each key, in the order in which its one writer sent them.
#[derive(Default)]
pub(crate) struct Expected(BTreeMap<String, History>);

/// Of one key.
struct History {
    /// What it was set to, or that it was removed; the first is how it was in the beginning.
    values: Vec<Option<String>>,
    acknowledged: usize,
}

impl Expected {
    /// A change is sent: a new value, or none.
    pub(crate) fn sent(&mut self, key: &str, value: Option<String>) {
        let nothing = || History { values: vec![None], acknowledged: 0 };
        self.0.entry(key.to_owned()).or_insert_with(nothing).values.push(value);
    }

    /// The next change of this key is acknowledged.
    pub(crate) fn acknowledged(&mut self, key: &str) -> Result<()> {
        let history = self.0.get_mut(key).filter(|history| history.acknowledged + 1 < history.values.len());
        ensure!(history.is_some(), "a change of {key} was acknowledged that nobody sent");
        history.into_iter().for_each(|history| history.acknowledged += 1);
        Ok(())
    }

    /// Checks a map after a crash, and goes on from it.
    pub(crate) fn check(&mut self, map: &BTreeMap<String, String>) -> Result<()> {
        for (key, history) in &mut self.0 {
            let found = map.get(key).cloned();
            let possible = &history.values[history.acknowledged..];
            ensure!(
                possible.contains(&found),
                "{key} was acknowledged as {}, but is {}",
                shown(possible.first().unwrap_or(&None)),
                shown(&found)
            );
            *history = History { values: vec![found], acknowledged: 0 };
        }
        let stranger = map.keys().find(|key| !self.0.contains_key(*key));
        ensure!(stranger.is_none(), "{} is in the map, and nobody put it there", stranger.map_or("", |key| key));
        Ok(())
    }
}

fn shown(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("removed")
}
