//! Tests of the result codes of log errors, and of the texts of all codes.

use crate::failure::code_of;
use crate::result::{galerna_result_name, galerna_result_t::*, galerna_strerror};
use engine::Error;
use engine::Version;
use std::collections::HashSet;
use std::ffi::CStr;
use std::sync::Arc;

#[test]
fn the_log_s_errors_have_numbers_that_never_change() {
    let text = String::new;
    let source = Arc::new(std::io::Error::other("the disk is on fire"));
    let (given, last) = (Version::default(), Version::default());
    for (error, code, number) in [
        (Error::LogLocked { directory: text() }, GALERNA_ERR_LOG_LOCKED, 24),
        (Error::LogFull { file: text(), bytes: 1, shortage: "" }, GALERNA_ERR_LOG_FULL, 25),
        (Error::LogDamaged { file: text(), offset: 1, what: text() }, GALERNA_ERR_LOG_DAMAGED, 26),
        (Error::LogForeign { file: text(), key: "", ours: text(), theirs: text() }, GALERNA_ERR_LOG_FOREIGN, 27),
        (Error::LogFormat { file: text(), found: 2, known: 1 }, GALERNA_ERR_LOG_FORMAT, 28),
        (Error::LogTrimmed { wanted: text(), oldest: text() }, GALERNA_ERR_LOG_TRIMMED, 29),
        (Error::LogFailed { what: text(), source }, GALERNA_ERR_LOG_FAILED, 30),
        (Error::LogRecordTooLarge { len: 2, limit: 1 }, GALERNA_ERR_LOG_RECORD_TOO_LARGE, 31),
        (Error::LogOrder { given, given_ns: 1, last, last_ns: 1 }, GALERNA_ERR_LOG_ORDER, 32),
    ] {
        assert_eq!((code_of(&error), code as i32), (code, number), "{error}");
    }
}

#[test]
fn every_number_has_a_text_of_its_own() {
    let describe = |code| {
        // SAFETY: a static string.
        unsafe { CStr::from_ptr(galerna_strerror(code)) }
    };
    let none = describe(-1);
    let texts: HashSet<_> = (0..=36).map(describe).filter(|&text| text != none).collect();
    // Two of the 37 numbers are no longer used.
    assert_eq!(texts.len(), 35);
    assert_eq!(describe(37), none);
    assert_eq!(describe(GALERNA_ERR_LOG_ORDER as i32), c"the record does not follow the log's last one");
}

/// The header lists each name with its number.
#[test]
fn the_names_are_those_of_the_header() {
    let header = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../include/galerna.h")).unwrap();
    let listed: Vec<(&str, i32)> = header
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .filter(|(name, _)| *name == "GALERNA_OK" || name.starts_with("GALERNA_ERR_"))
        .map(|(name, number)| (name, number.parse().unwrap()))
        .collect();
    assert_eq!(listed.len(), 35);
    for (name, number) in listed {
        // SAFETY: a static string.
        assert_eq!(unsafe { CStr::from_ptr(galerna_result_name(number)) }.to_str(), Ok(name));
    }
}
