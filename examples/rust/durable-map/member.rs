//! A member process. It reads commands from standard input and answers on standard output.

use crate::map::Change;
use crate::options::Member;
use crate::store::{News, Store};
use anyhow::{Context, Result, ensure};
use galerna::{Config, Error, MemberId};
use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, channel};

const HELP: &str = "put KEY VALUE   sets a key, and prints `ok KEY` once the change is durable
del KEY         removes a key, and prints `ok KEY` once the change is durable
get KEY         prints `KEY VALUE`, or `none KEY` if there is no such key
dump            prints all keys with their values, then `end` and the number of keys
durable         prints the number of messages that are durable
checkpoint      writes the map to disk, and removes the part of the log that it replaces
quit            leaves the group; the end of the input does the same";

pub(crate) fn run(options: &Member) -> Result<()> {
    let config = Config::from_file(&options.config)?;
    let config = match options.id {
        Some(id) => config.with_member(MemberId(id)),
        None => config,
    };
    let shown = options.config.display();
    ensure!(config.log.is_some(), "{shown} has no `[log]` section: add one, because nothing is durable without it");
    let (sender, news) = channel();
    let store = Store::join(config, sender)?;
    let keys = store.read(|map| map.len())?;
    say(&format!("joined with {keys} keys"));
    std::thread::Builder::new().name("news".to_owned()).spawn(move || tell(&news)).context("cannot start a thread")?;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        if line == "quit" {
            break;
        }
        match command(&store, &line) {
            Ok(()) => {}
            Err(error @ (Error::MessageTooLarge { .. } | Error::TimedOut { .. })) => say(&format!("error: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    // Waits until all changes that were sent are durable, before this process leaves.
    store.read(|_| ())?;
    Ok(store.leave()?)
}

fn command(store: &Store, line: &str) -> Result<(), Error> {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    let is_key = !rest.is_empty() && !rest.contains(' ');
    match (command, rest.split_once(' ')) {
        ("put", Some((key, value))) if !key.is_empty() => {
            store.send(&Change::Put { key: key.to_owned(), value: value.to_owned() })?;
        }
        ("del", None) if is_key => store.send(&Change::Delete { key: rest.to_owned() })?,
        ("get", None) if is_key => {
            let value = store.read(|map| map.get(rest).map(str::to_owned))?;
            say(&value.map_or_else(|| format!("none {rest}"), |value| format!("{rest} {value}")));
        }
        ("dump", None) => {
            let mut text: Vec<String> =
                store.read(|map| map.iter().map(|(key, value)| format!("{key} {value}")).collect())?;
            text.push(format!("end {}", text.len()));
            say(&text.join("\n"));
        }
        ("durable", None) => say(&format!("durable {}", store.durable()?)),
        ("checkpoint", None) => say(&format!("checkpoint {}", store.checkpoint()?)),
        ("help", None) => say(HELP),
        _ => say(&format!("error: unknown command `{line}`: `help` lists the commands")),
    }
    Ok(())
}

/// Prints the events of the group.
fn tell(news: &Receiver<News>) {
    for news in news {
        match news {
            News::Acknowledged(change) => say(&format!("ok {}", change.key())),
            News::Members(members) => {
                let members: Vec<_> = members.iter().map(ToString::to_string).collect();
                say(&format!("members: {}", members.join(", ")));
            }
            News::Stopped(reason) => {
                // The process exits here because the main thread may be waiting for a command.
                eprintln!("error: {reason}");
                #[allow(clippy::exit, reason = "nothing is left to do or to undo")]
                std::process::exit(1);
            }
        }
    }
}

fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    // This fails only if standard output is closed, and then the input ends as well.
    let _ = writeln!(output, "{text}").and_then(|()| output.flush());
}
