//! The allowed values of the configuration's keys, and errors that name the key, the value and the allowed values.

use crate::error::Error;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The allowed values of the keys that do not take every value of their types.
const ALLOWED: [(&str, &str); 15] = [
    ("ring_bytes", "a power of two from 4096 to 2^30"),
    ("stack_bytes", "from 262144 to 2^30"),
    ("failure_timeout_ms", "from 10 to 3600000 (an hour)"),
    ("partition_timeout_ms", "from `failure_timeout_ms` to 86400000 (a day)"),
    ("log.segment_bytes", "a multiple of 4096 from 8192 to 2^31"),
    ("log.clock_skew_max_ms", "from 1 to 86400000 (a day)"),
    ("verbs.port", "from 1 to 255"),
    ("verbs.mtu", "256, 512, 1024, 2048 or 4096"),
    ("verbs.timeout", "from 1 to 31"),
    ("verbs.retry_count", "from 0 to 7"),
    ("verbs.min_rnr_timer", "from 0 to 31"),
    ("verbs.service_level", "from 0 to 15"),
    ("verbs.hop_limit", "from 1 to 255"),
    ("verbs.send_queue_depth", "from 16 to 16384"),
    ("verbs.inline_bytes", "from 0 to 1024"),
];

fn allowed(key: &str) -> Option<&'static str> {
    ALLOWED.iter().find(|(known, _)| *known == key).map(|(_, allowed)| *allowed)
}

/// The error of a value outside the allowed values of its key.
pub(super) fn outside(key: &str, value: impl std::fmt::Display) -> Error {
    Error::Config(wrong(key, allowed(key).unwrap_or("another value"), value))
}

fn wrong(key: &str, allowed: &str, value: impl std::fmt::Display) -> String {
    format!("`{key}` must be {allowed}, not {value}")
}

/// The text of an error in the configuration `text`: for a value of a wrong type, with its key and the allowed values.
pub(super) fn explained(text: &str, error: &toml::de::Error) -> String {
    let (shown, message) = (error.to_string(), error.message());
    let shown = shown.trim_end();
    let is_type = message.starts_with("invalid type") || message.starts_with("invalid value");
    let wrong = is_type.then(|| wrong_type(text, error.span()?, message)).flatten();
    match (wrong, shown.strip_suffix(message)) {
        // The place remains: the line and the column.
        (Some(wrong), Some(place)) => format!("{place}{wrong}"),
        _ => shown.to_owned(),
    }
}

fn wrong_type(text: &str, span: Range<usize>, message: &str) -> Option<String> {
    let key = key_at(DeTable::parse(text).ok()?.get_ref(), "", &span)?;
    let (_, expected) = message.split_once("expected ")?;
    Some(wrong(&key, allowed(&key).unwrap_or_else(|| plain(expected)), text.get(span)?.trim()))
}

/// The plain name of a type that the deserialiser expects. Also for the C ABI.
pub fn plain(expected: &str) -> &str {
    match expected {
        "usize" | "u64" => "a whole number from 0",
        "u32" => "a whole number from 0 to 4294967295",
        "u16" => "a whole number from 0 to 65535",
        "u8" => "a whole number from 0 to 255",
        "a boolean" => "`true` or `false`",
        "a string" | "path string" => "a text in quotation marks",
        "a sequence" => "a list",
        "struct LogConfig" | "struct Verbs" | "struct Member" => "a table",
        other => other,
    }
}

/// The key of the value at `span` in a table: `log.segment_bytes`, `members[1].id`. `path` leads to the table.
fn key_at(table: &DeTable<'_>, path: &str, span: &Range<usize>) -> Option<String> {
    table.iter().find_map(|(name, value)| match path {
        "" => innermost(value, name.get_ref().to_string(), span),
        path => innermost(value, format!("{path}.{}", name.get_ref()), span),
    })
}

/// The key of the innermost value at `span`. A table with a header does not span its entries.
fn innermost(value: &Spanned<DeValue<'_>>, path: String, span: &Range<usize>) -> Option<String> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => key_at(table, &path, span),
        DeValue::Array(list) => {
            list.iter().enumerate().find_map(|(n, value)| innermost(value, format!("{path}[{n}]"), span))
        }
        _ => None,
    };
    let place = value.span();
    inner.or_else(|| (place.start <= span.start && span.end <= place.end).then_some(path))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_value_of_a_wrong_type_is_named_with_its_key_and_the_allowed_values() {
        let good = "group = 'g'\nmembers = [{ id = 1, address = 'host-a:7001' }]\n";
        for (wrong, line, text) in [
            ("ring_bytes = -1", 3, "`ring_bytes` must be a power of two from 4096 to 2^30, not -1"),
            ("join_timeout_ms = 'long'", 3, "`join_timeout_ms` must be a whole number from 0, not 'long'"),
            ("busy_poll = 1", 3, "`busy_poll` must be `true` or `false`, not 1"),
            ("contacts = 'host-b:7001'", 3, "`contacts` must be a list, not 'host-b:7001'"),
            ("contacts = ['host-b:7001', 7]", 3, "`contacts[1]` must be a text in quotation marks, not 7"),
            ("[verbs]\nport = 300", 4, "`verbs.port` must be from 1 to 255, not 300"),
            (
                "verbs = { pkey_index = 65536 }",
                3,
                "`verbs.pkey_index` must be a whole number from 0 to 65535, not 65536",
            ),
            ("[log]\ndirectory = 'logs'\nsegment_bytes = 1.5", 5, "`log.segment_bytes` must be a multiple of 4096"),
            ("log = 'logs'", 3, "`log` must be a table, not 'logs'"),
        ] {
            let error = Config::from_toml(&format!("{good}{wrong}\n")).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}")) && error.contains(text), "{error}");
        }
        let error = Config::from_toml(&good.replace("id = 1", "id = -1")).unwrap_err().to_string();
        assert!(error.contains("`members[0].id` must be a whole number from 0 to 4294967295, not -1"), "{error}");
    }
}
