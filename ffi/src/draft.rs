//! A configuration that is being made: the table of its TOML file, to which keys are added one by one.
//!
//! A key that a program sets passes through the same deserialiser and the same checks as a key of a file. To check a
//! key before the others are known, [`room`] stands for the others: its values leave as much room as possible. What two
//! keys demand of each other is checked by the join, or by [`Draft::config`].

use engine::{Config, Error, MemberId};
use std::sync::Arc;
use toml::{Table, Value};

#[derive(Debug, Clone)]
pub(crate) struct Draft(Table);

impl Draft {
    /// A configuration without members. Every other key has its default.
    pub(crate) fn new(group: &str) -> Result<Draft, Error> {
        let mut draft = Draft(Table::from_iter([("members".to_owned(), Value::Array(Vec::new()))]));
        draft.set("group", group)?;
        Ok(draft)
    }

    pub(crate) fn from_toml(text: &str) -> Result<Draft, Error> {
        // Its errors name the line.
        Config::from_toml(text)?;
        text.parse().map(Draft).map_err(|error: toml::de::Error| Error::Config(error.to_string().trim_end().to_owned()))
    }

    pub(crate) fn from_file(path: &str) -> Result<Draft, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::Io { what: format!("cannot read the configuration {path}"), source: Arc::new(e) })?;
        Draft::from_toml(&text).map_err(|error| match error {
            Error::Config(what) => Error::Config(format!("{path}: {what}")),
            other => other,
        })
    }

    /// Sets a key from text. `log.directory` is the key `directory` of the table `log`.
    pub(crate) fn set(&mut self, key: &str, text: &str) -> Result<(), Error> {
        let value = checked(key, text)?;
        put(&mut self.0, key, value)
    }

    pub(crate) fn add_member(&mut self, id: u32, address: &str) -> Result<(), Error> {
        let members = self.with("members", member(id, address));
        let mut table = room("members", address);
        table.insert("members".to_owned(), members.clone());
        check(table).map_err(|refusal| refusal.explain("members", address))?;
        self.0.insert("members".to_owned(), members);
        Ok(())
    }

    pub(crate) fn add_contact(&mut self, address: &str) -> Result<(), Error> {
        let contacts = self.with("contacts", Value::from(address));
        let mut table = room("contacts", address);
        table.insert("contacts".to_owned(), contacts.clone());
        check(table).map_err(|refusal| refusal.explain("contacts", address))?;
        self.0.insert("contacts".to_owned(), contacts);
        Ok(())
    }

    /// Sets which member this process is. The members and `address` must be known.
    pub(crate) fn set_member(&mut self, id: MemberId) -> Result<(), Error> {
        let known = ["group", "members", "address"];
        let known = known.iter().filter_map(|&key| Some((key.to_owned(), self.0.get(key)?.clone())));
        let config = parse(Table::from_iter(known)).map_err(|refusal| refusal.explain("member", &id.to_string()))?;
        config.with_member(id).own()?;
        self.0.insert("member".to_owned(), Value::from(i64::from(id.0)));
        Ok(())
    }

    /// Returns the whole configuration, checked.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        if self.0.get("log").is_some_and(|log| log.get("directory").is_none()) {
            return Err(Error::Config(
                "`log.directory` is missing: set it to a directory on a disk of this host".into(),
            ));
        }
        check(self.0.clone()).map_err(|refusal| match refusal {
            Refusal::Type(error) => Error::Config(error.to_string().trim_end().to_owned()),
            Refusal::Value(error) => error,
        })
    }

    /// The list of a key, with one more element.
    fn with(&self, key: &str, element: Value) -> Value {
        let mut list = self.0.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        list.push(element);
        Value::Array(list)
    }
}

/// Why a configuration is refused.
enum Refusal {
    /// A key is unknown, or has a value of another type.
    Type(toml::de::Error),
    /// A value is outside its range. The error names the key, the value and the range.
    Value(Error),
}

impl Refusal {
    /// Makes the error for one key, which names the key, the value and what is allowed.
    fn explain(self, key: &str, text: &str) -> Error {
        let error = match self {
            Refusal::Value(error) => return error,
            Refusal::Type(error) => error,
        };
        let message = error.message();
        let allowed = message.split_once("expected ").map_or(message, |(_, expected)| expected);
        Error::Config(match message.starts_with("unknown field") {
            true => format!("there is no key `{key}` (given with the value `{text}`): expected {allowed}"),
            false => format!("`{key}` cannot be `{text}`: expected {}", plain(allowed)),
        })
    }
}

/// The plain name of a type that the deserialiser expects from a setter.
fn plain(expected: &str) -> &str {
    match expected {
        // A setter takes a text without quotation marks.
        "a string" | "path string" => expected,
        "a sequence" => "a list, such as [\"host-a:7001\", \"host-b:7001\"]",
        "struct LogConfig" | "struct Verbs" => {
            "the name of a key in this table, such as `log.directory` or `verbs.mtu`"
        }
        other => engine::plain_type(other),
    }
}

fn parse(table: Table) -> Result<Config, Refusal> {
    table.try_into().map_err(Refusal::Type)
}

fn check(table: Table) -> Result<Config, Refusal> {
    let config = parse(table)?;
    config.check().map_err(Refusal::Value)?;
    Ok(config)
}

/// Converts the text of one key to a value, and checks it.
fn checked(key: &str, text: &str) -> Result<Value, Error> {
    let fits = |value: &Value| {
        let mut table = room(key, text);
        put(&mut table, key, value.clone()).map_err(Refusal::Value)?;
        check(table)
    };
    let string = Value::from(text);
    let refusal = match fits(&string) {
        Ok(_) => return Ok(string),
        Err(refusal) => refusal,
    };
    let other_type = matches!(&refusal, Refusal::Type(error) if error.message().starts_with("invalid type: string"));
    // The key is no string: its text is that of the file, such as a number.
    match text.trim().parse::<Value>() {
        Ok(value) if other_type && !value.is_str() => match fits(&value) {
            Ok(_) => Ok(value),
            Err(refusal) => Err(refusal.explain(key, text)),
        },
        _ => Err(refusal.explain(key, text)),
    }
}

/// A configuration in which `key` can have each of its values: no other key restricts it.
fn room(key: &str, text: &str) -> Table {
    let local = text.contains("unix:") || (key == "fabric" && text == "shm");
    let (fabric, address) = if local { ("shm", "unix:galerna") } else { ("tcp", "galerna.invalid:1") };
    let mut table = Table::from_iter([
        ("group".to_owned(), Value::from("group")),
        ("member".to_owned(), Value::from(2)),
        ("fabric".to_owned(), Value::from(fabric)),
        ("members".to_owned(), Value::Array(vec![member(1, address)])),
        ("ring_bytes".to_owned(), Value::from(1 << 30)),
        ("max_message_bytes".to_owned(), Value::from(1)),
        ("failure_timeout_ms".to_owned(), Value::from(10)),
        ("partition_timeout_ms".to_owned(), Value::from(86_400_000)),
    ]);
    if key.starts_with("log.") {
        let log = Table::from_iter([("directory".to_owned(), Value::from("logs"))]);
        table.insert("log".to_owned(), Value::Table(log));
    }
    table
}

fn member(id: u32, address: &str) -> Value {
    let pairs = [("id".to_owned(), Value::from(i64::from(id))), ("address".to_owned(), Value::from(address))];
    Value::Table(Table::from_iter(pairs))
}

/// Puts a value into a table, or into the table inside it that the key names.
fn put(table: &mut Table, key: &str, value: Value) -> Result<(), Error> {
    let (mut table, mut rest) = (table, key);
    while let Some((outer, inner)) = rest.split_once('.') {
        table = match table.entry(outer).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(table) => table,
            _ => return Err(Error::Config(format!("there is no key `{key}`: `{outer}` is not a table"))),
        };
        rest = inner;
    }
    table.insert(rest.to_owned(), value);
    Ok(())
}
