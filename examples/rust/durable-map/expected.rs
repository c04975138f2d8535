//! The expected map after a crash. For each key it must contain all acknowledged changes, and it may contain some that
//! were not acknowledged.

use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// The changes of each key, in the order in which its only writer sent them.
#[derive(Default)]
pub(crate) struct Expected(BTreeMap<String, History>);

/// The changes of one key.
struct History {
    /// The values that the key was set to; `None` stands for a removal. The first entry is the initial value.
    values: Vec<Option<String>>,
    acknowledged: usize,
}

impl Expected {
    /// Records that a change was sent: a new value, or `None` for a removal.
    pub(crate) fn sent(&mut self, key: &str, value: Option<String>) {
        let nothing = || History { values: vec![None], acknowledged: 0 };
        self.0.entry(key.to_owned()).or_insert_with(nothing).values.push(value);
    }

    /// Records that the next change of this key was acknowledged.
    pub(crate) fn acknowledged(&mut self, key: &str) -> Result<()> {
        let history = self.0.get_mut(key).filter(|history| history.acknowledged + 1 < history.values.len());
        ensure!(history.is_some(), "a change of {key} was acknowledged, but no member sent it");
        history.into_iter().for_each(|history| history.acknowledged += 1);
        Ok(())
    }

    /// Checks a map after a crash. The changes of the next round build on this map.
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
        ensure!(stranger.is_none(), "{} is in the map, but no member put it there", stranger.map_or("", |key| key));
        Ok(())
    }
}

fn shown(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("removed")
}
