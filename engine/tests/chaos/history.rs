//! What the members' histories must agree on. The lines are described in [`crate::member`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// A message as one life was told it: its number in the order, and what it is.
type Message = (u64, What);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct What {
    mode: char,
    sender: u32,
    life: u32,
    number: u64,
}

impl What {
    fn parse(words: &[&str]) -> What {
        let [mode, sender, life, number] = *words else { panic!("a line of another form: {words:?}") };
        let (sender, life) = (sender.parse().unwrap(), life.parse().unwrap());
        What { mode: mode.chars().next().unwrap(), sender, life, number: number.parse().unwrap() }
    }
}

/// What one life was told between two views.
#[derive(Default)]
pub(crate) struct Epoch {
    pub(crate) view: u64,
    /// It began with the view, not with a state that was taken in its middle.
    whole: bool,
    /// The life went on to the next view.
    went_on: bool,
    messages: BTreeSet<Message>,
}

pub(crate) struct View {
    pub(crate) number: u64,
    /// The members, who came, who left and who failed.
    pub(crate) who: [String; 4],
    state: Option<String>,
}

pub(crate) struct History {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) life: u32,
    pub(crate) epochs: Vec<Epoch>,
    pub(crate) views: Vec<View>,
}

impl History {
    pub(crate) fn read(folder: &Path, id: u32, life: u32, problems: &mut Vec<String>) -> History {
        let name = format!("{id}.{life}");
        let text = std::fs::read_to_string(folder.join(format!("member-{name}.history"))).unwrap_or_default();
        let mut history = History { name, id, life, epochs: Vec::new(), views: Vec::new() };
        let mut ordered = None;
        let mut restored = false;
        // Of a killed process the last line may be half a line.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[0] {
                "M" => {
                    let (view, sequence) = (words[1].parse().unwrap(), words[2].parse().unwrap());
                    history.message(view, (sequence, What::parse(&words[3..])), &mut ordered, problems);
                }
                "V" => {
                    history.view(&words, restored);
                    (ordered, restored) = (None, false);
                }
                "R" => {
                    // It may be taken again, from another member, before anything is delivered.
                    restored = true;
                }
                "G" => problems.push(format!("{}: {}", history.name, line.trim())),
                _ => {}
            }
        }
        history
    }

    fn view(&mut self, words: &[&str], restored: bool) {
        let number = words[1].parse().unwrap();
        let who = [2, 3, 4, 5].map(|n| words[n].to_owned());
        let state = (!restored).then(|| format!("{} {}", words[6], words[7]));
        if let Some(last) = self.epochs.last_mut() {
            last.went_on = true;
        }
        self.epochs.push(Epoch { view: number, whole: !restored, ..Epoch::default() });
        self.views.push(View { number, who, state });
    }

    fn message(&mut self, view: u64, message: Message, ordered: &mut Option<u64>, problems: &mut Vec<String>) {
        let name = &self.name;
        let Some(epoch) = self.epochs.last_mut().filter(|epoch| epoch.view == view) else {
            return problems.push(format!("{name}: message {message:?} of view {view} is not in that view"));
        };
        if message.1.mode != 'f' && ordered.replace(message.0).is_some_and(|last| last >= message.0) {
            problems.push(format!("{name}: view {view}: {message:?} after #{ordered:?}"));
        }
        if let Some(again) = epoch.messages.replace(message) {
            problems.push(format!("{name}: view {view}: {again:?} twice"));
        }
    }

    fn epoch(&self, view: u64) -> Option<&Epoch> {
        self.epochs.iter().find(|epoch| epoch.view == view)
    }
}

/// Checks the histories of all lives. `complete` are those that missed nothing of the views they were in: that left, or
/// were there at the end.
pub(crate) fn check(histories: &[History], complete: &dyn Fn(&History) -> bool, problems: &mut Vec<String>) {
    check_views(histories, problems);
    check_places(histories, problems);
    let views: BTreeSet<u64> = histories.iter().flat_map(|h| h.epochs.iter().map(|epoch| epoch.view)).collect();
    for view in views {
        check_epoch(histories, view, complete, problems);
    }
}

/// One view of a number, entered with one state, and none left out.
fn check_views(histories: &[History], problems: &mut Vec<String>) {
    let mut known: BTreeMap<u64, (&[String; 4], &str)> = BTreeMap::new();
    let mut states: BTreeMap<u64, (&str, &str)> = BTreeMap::new();
    for history in histories {
        let name = history.name.as_str();
        for pair in history.views.windows(2) {
            if pair[1].number != pair[0].number + 1 {
                problems.push(format!("{name} went from view {} to {}", pair[0].number, pair[1].number));
            }
        }
        for View { number, who, state } in &history.views {
            let (first, by) = known.entry(*number).or_insert((who, name));
            if *first != who {
                problems.push(format!("view {number} is {first:?} for {by}, {who:?} for {name}"));
            }
            let Some(state) = state else { continue };
            let (first, by) = states.entry(*number).or_insert((state, name));
            if first != state {
                problems.push(format!("view {number} begins with state {first} for {by}, {state} for {name}"));
            }
        }
    }
}

/// No place in the order holds two messages.
fn check_places(histories: &[History], problems: &mut Vec<String>) {
    let mut places: HashMap<(u64, u64), (What, &str)> = HashMap::new();
    for history in histories {
        for epoch in &history.epochs {
            for (sequence, message) in &epoch.messages {
                let name = history.name.as_str();
                let (first, by) = places.entry((epoch.view, *sequence)).or_insert((*message, name));
                if *first != *message {
                    let place = format!("view {} #{sequence}", epoch.view);
                    problems.push(format!("{place} is {first:?} for {by}, {message:?} for {name}"));
                }
            }
        }
    }
}

/// Who went on from a view has all of it; who did not has no safe message that is not part of it.
fn check_epoch(histories: &[History], view: u64, complete: &dyn Fn(&History) -> bool, problems: &mut Vec<String>) {
    let all: Vec<(&History, &Epoch)> = histories.iter().filter_map(|h| Some((h, h.epoch(view)?))).collect();
    let has_all = |(history, epoch): &(&History, &Epoch)| epoch.went_on || complete(history);
    let Some((first, reference)) = all.iter().find(|one| one.1.whole && has_all(one)) else { return };
    for (history, epoch) in &all {
        let (name, by) = (&history.name, &first.name);
        let missing = reference.messages.difference(&epoch.messages).next();
        if let Some(message) = missing.filter(|_| epoch.whole && has_all(&(*history, *epoch))) {
            problems.push(format!("view {view}: {name} lacks {message:?}, which {by} has"));
        }
        let mut extra = epoch.messages.difference(&reference.messages);
        let known = has_all(&(*history, *epoch));
        if let Some(message) = extra.find(|message| known || message.1.mode == 's') {
            problems.push(format!("view {view}: {name} has {message:?}, which {by}, that went on, has not"));
        }
    }
}
