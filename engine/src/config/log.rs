//! The configuration of the group's log.

use super::explain::outside;
use crate::error::Error;
use crate::log::{SEGMENT_BYTES_DEFAULT, hash};
use crate::types::MemberId;
use serde::Deserialize;
use std::path::PathBuf;

/// The `[log]` section: every message of the group is kept on disk, and the group survives the end of all its
/// processes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// The directory that contains the logs. It must be on a disk of this host.
    ///
    /// Each member has a subdirectory `GROUP-MEMBER` (see [`LogConfig::directory_of`]).
    pub directory: PathBuf,
    /// The size of a log file in bytes, a multiple of 4096 from 8192 to 2^31. Every message must fit one file.
    #[serde(default = "default_segment_bytes")]
    pub segment_bytes: u64,
    /// The number of voters that must have a `durable` message on disk before it is delivered.
    ///
    /// 0, or a number larger than the number of voters, means all of them.
    #[serde(default)]
    pub durable_members: usize,
    /// After a failure of all processes: how long a majority of the last view waits for the others, in milliseconds.
    #[serde(default = "default_restart_wait_ms")]
    pub restart_wait_ms: u64,
    /// The largest allowed difference between this host's clock and the clocks of most other members, in milliseconds.
    ///
    /// From 1 to 86,400,000. Beyond it, messages carry the time of the others, and this process and the others warn of
    /// its clock.
    #[serde(default = "default_clock_skew_max_ms")]
    pub clock_skew_max_ms: u64,
}

// Clocks that are synchronised by NTP stay within a tenth of this value. The rest allows for late heartbeats.
fn default_clock_skew_max_ms() -> u64 {
    1000
}

fn default_segment_bytes() -> u64 {
    SEGMENT_BYTES_DEFAULT
}

fn default_restart_wait_ms() -> u64 {
    5000
}

impl LogConfig {
    /// A log in `directory`, with the default for every other key.
    pub fn new(directory: impl Into<PathBuf>) -> LogConfig {
        LogConfig {
            directory: directory.into(),
            segment_bytes: default_segment_bytes(),
            durable_members: 0,
            restart_wait_ms: default_restart_wait_ms(),
            clock_skew_max_ms: default_clock_skew_max_ms(),
        }
    }

    /// The directory of the log of `member` of `group`, inside [`LogConfig::directory`]: `GROUP-MEMBER`.
    ///
    /// In the name, every byte is replaced by `%` and two hexadecimal digits, except a-z, 0-9, `_`, `-`, and a `.` that
    /// is not the first byte. So no two members share a directory, even on a file system that does not distinguish
    /// upper and lower case. A name that would be too long for a file system is cut, followed by `~` and 32 digits that
    /// are a hash of the whole name.
    pub fn directory_of(&self, group: &str, member: MemberId) -> PathBuf {
        self.directory.join(format!("{}-{member}", escaped(group)))
    }

    pub(super) fn check(&self, max_message: usize) -> Result<(), Error> {
        let fail = |what: String| Err(Error::Config(what));
        if self.directory.as_os_str().is_empty() {
            return fail("`log.directory` is empty: name a directory on a disk of this host".to_owned());
        }
        if !self.segment_bytes.is_multiple_of(4096) || !(8192..=1 << 31).contains(&self.segment_bytes) {
            return Err(outside("log.segment_bytes", self.segment_bytes));
        }
        if !(1..=86_400_000).contains(&self.clock_skew_max_ms) {
            return Err(outside("log.clock_skew_max_ms", self.clock_skew_max_ms));
        }
        // The first page of a segment is reserved, and a record has a header.
        let most = self.segment_bytes - 4096 - 128;
        if max_message as u64 > most {
            return fail(format!(
                "a message may have {max_message} bytes, but a segment of {} bytes holds at most {most}: raise `log.segment_bytes`, or lower `max_message_bytes`",
                self.segment_bytes
            ));
        }
        Ok(())
    }
}

/// The longest escaped name, in bytes, that is not cut. With the suffix it fits every file system.
const NAME_BYTES_MAX: usize = 100;
/// The bytes that remain of a longer name.
const NAME_BYTES_KEPT: usize = 60;

fn escaped(group: &str) -> String {
    let mut name = String::new();
    for (n, byte) in group.bytes().enumerate() {
        let plain = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-') || byte == b'.' && n > 0;
        if plain {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    if name.len() > NAME_BYTES_MAX {
        name.truncate(NAME_BYTES_KEPT);
        name.push_str(&format!("~{:032x}", hash(group.as_bytes())));
    }
    name
}

/// Whether `name` is the directory name of the log of `member` of a group.
///
/// `is_group` returns whether a group name is the expected one. A group name that was cut cannot be checked, so such a
/// directory name always passes.
pub(crate) fn is_directory_name(name: &str, member: MemberId, is_group: impl Fn(&str) -> bool) -> bool {
    let Some(group) = name.strip_suffix(&format!("-{member}")) else { return false };
    if group.len() > NAME_BYTES_KEPT && group.contains('~') {
        return true;
    }
    unescaped(group).is_some_and(|plain| escaped(&plain) == group && is_group(&plain))
}

fn unescaped(name: &str) -> Option<String> {
    let mut parts = name.split('%');
    let mut plain = parts.next()?.as_bytes().to_vec();
    for part in parts {
        plain.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        plain.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn name(group: &str, member: u32) -> String {
        let directory = LogConfig::new("/logs").directory_of(group, MemberId(member));
        assert_eq!(directory.parent(), Some(std::path::Path::new("/logs")), "{group}");
        directory.file_name().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn names_that_look_alike_have_directories_of_their_own() {
        let long = "x".repeat(255);
        let other = format!("{}y", "x".repeat(254));
        let groups = [
            "demo",
            "Demo",
            "DEMO",
            "a:b",
            "a_b",
            "a/b",
            "a%3ab",
            "a%3Ab",
            "a",
            "a-1",
            "a-1-1",
            "1",
            "-",
            "--",
            ".",
            "..",
            "...",
            "a.",
            ".a",
            " ",
            "",
            "a b",
            "\u{e9}",
            "e\u{301}",
            "~",
            "a~",
            "a\0",
            "a.discarded",
            "a-1.discarded",
            &long,
            &other,
        ];
        let mut found = HashMap::new();
        for group in groups {
            for member in [0, 1, 2, 11, u32::MAX] {
                // The names must also differ on a file system that ignores case.
                let name = name(group, member);
                assert_eq!(name, name.to_lowercase());
                assert!(name.len() <= 120 && !name.contains('/') && !name.starts_with('.'), "{name}");
                let before = found.insert(name.clone(), (group, member));
                assert_eq!(before, None, "{name} is that of {group} {member} as well");
            }
        }
        for (name, &(group, member)) in &found {
            assert!(is_directory_name(name, MemberId(member), |plain| plain == group), "{name}");
        }
        for other in ["demo-2", "demo", "Demo-1", "%64emo-1", "%6-1", "%-1", "-1", "1", "demo-1.bak", "", "d%e9-1"] {
            assert!(!is_directory_name(other, MemberId(1), |plain| plain == "demo"), "{other}");
        }
        assert_eq!(name("demo", 1), "demo-1");
        assert_eq!(name("a:b", 1), "a%3ab-1");
        assert_eq!(name("..", 7), "%2e.-7");
    }

    #[test]
    fn the_hash_is_that_of_the_books() {
        assert_eq!(hash(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(hash(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    proptest! {
        #[test]
        fn no_two_have_one_directory(a in "\\PC{1,12}", b in "\\PC{1,12}", one: u32, two: u32) {
            prop_assert_eq!(name(&a, one) == name(&b, two), a == b && one == two);
        }
    }
}
