//! `galerna_config_t`: a configuration, with which a group is joined.

use crate::border::{self, Out};
use crate::draft::Draft;
use crate::failure::Failure;
use crate::handle::{Table, lock_briefly};
use crate::result::galerna_result_t;
use engine::{Config, Error, MemberId};
use std::ffi::c_char;
use std::sync::Mutex;

/// A configuration.
///
/// Its calls may be made from any thread. The handle is a number and is never dereferenced: using a freed handle
/// returns GALERNA_ERR_HANDLE. A child made by fork() may use it.
pub struct galerna_config_t;

static CONFIGS: Table<Mutex<Draft>> = Table::inherited("configuration", 1);

/// Makes a configuration without members. Every other key has its default.
///
/// Add the members with galerna_config_add_member(), set further keys with galerna_config_set(), and then the own
/// member with galerna_config_set_member().
///
/// - `group`: the name of the group, a UTF-8 string of 1 to 255 bytes that ends with a zero byte. Not kept after the
///   call.
/// - `out`: receives the configuration, or NULL after an error. Free it with galerna_config_free().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_ARGUMENT (NULL, or not UTF-8), GALERNA_ERR_CONFIG (the name is empty or too long),
/// GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_config_new(group: *const c_char, out: *mut *mut galerna_config_t) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out` and `group`.
        let (out, group) = unsafe { (Out::new("out", out)?, border::text("group", group)) };
        create(&out, || Ok(Draft::new(group?)?))
    })
}

/// Makes a configuration from TOML text and validates it.
///
/// - `toml`: a string that ends with a zero byte. Not kept after the call.
/// - `out`: receives the configuration, or NULL after an error. Free it with galerna_config_free().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_ARGUMENT (NULL, or not UTF-8), GALERNA_ERR_CONFIG (the text names the key), GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_config_from_toml(
    toml: *const c_char,
    out: *mut *mut galerna_config_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out` and `toml`.
        let (out, toml) = unsafe { (Out::new("out", out)?, border::text("toml", toml)) };
        create(&out, || Ok(Draft::from_toml(toml?)?))
    })
}

/// Makes a configuration from a TOML file and validates it.
///
/// - `path`: the path of the file, a UTF-8 string that ends with a zero byte. Not kept after the call.
/// - `out`: receives the configuration, or NULL after an error. Free it with galerna_config_free().
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_ARGUMENT (NULL, or not UTF-8), GALERNA_ERR_IO (the file cannot be read), GALERNA_ERR_CONFIG (the
/// text names the key), GALERNA_ERR_LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_config_from_file(
    path: *const c_char,
    out: *mut *mut galerna_config_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `out` and `path`.
        let (out, path) = unsafe { (Out::new("out", out)?, border::text("path", path)) };
        create(&out, || Ok(Draft::from_file(path?)?))
    })
}

/// Adds a member at the end of the list `members`. The order of the list gives the ranks in the first view.
///
/// - `member`: the id of the member, which no other member has.
/// - `address`: the address at which the other members reach it, a UTF-8 string that ends with a zero byte:
///   `HOST:PORT`, or `unix:PATH` for the fabric `shm`. Not kept after the call.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`address` is NULL, or not UTF-8), GALERNA_ERR_CONFIG (the address
/// is invalid, another member has the id or the address, or there are too many members). After an error nothing is
/// added.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_config_add_member(
    config: *mut galerna_config_t,
    member: u32,
    address: *const c_char,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `address`.
        let address = unsafe { border::text("address", address)? };
        change(config, |draft| draft.add_member(member, address))
    })
}

/// Adds an address to the list `contacts`: further processes that this one asks whether the group runs.
///
/// - `address`: the address of the process, a UTF-8 string that ends with a zero byte, as for
///   galerna_config_add_member(). Not kept after the call.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (`address` is NULL, or not UTF-8), GALERNA_ERR_CONFIG (the address
/// is invalid, or there are too many contacts). After an error nothing is added.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_config_add_contact(
    config: *mut galerna_config_t,
    address: *const c_char,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `address`.
        let address = unsafe { border::text("address", address)? };
        change(config, |draft| draft.add_contact(address))
    })
}

/// Sets one key of a configuration from text, in place of its present value or its default.
///
/// - `key`: the key, as in a TOML file. The name of a key in a table follows the name of the table and a dot:
///   "ring_bytes", "log.directory", "verbs.mtu". A string that ends with a zero byte.
/// - `value`: the value, a UTF-8 string that ends with a zero byte: "1048576", "true", "tcp". A string has no quotation
///   marks. A list is written as in TOML. Both strings are not kept after the call.
///
/// The call checks the key and the range of the value. galerna_group_join() checks what depends on several keys: for
/// example, `partition_timeout_ms` must not be less than `failure_timeout_ms`.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_ARGUMENT (a string is NULL, or not UTF-8), GALERNA_ERR_CONFIG (there is no
/// such key, or the value is invalid; the text names the key, the value and what is allowed). After an error the
/// configuration is unchanged.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_config_set(
    config: *mut galerna_config_t,
    key: *const c_char,
    value: *const c_char,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: the C caller guarantees the documented requirements on `key` and `value`.
        let (key, value) = unsafe { (border::text("key", key)?, border::text("value", value)?) };
        change(config, |draft| draft.set(key, value))
    })
}

/// Sets which member this process is. Without this call the key `member` applies.
///
/// - `member`: the `id` of one of the configured members. If the key `address` is set: an id that none of them has. The
///   process then joins the running group.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_CONFIG (there is no such member).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_config_set_member(config: *mut galerna_config_t, member: u32) -> galerna_result_t {
    border::call(|| change(config, |draft| draft.set_member(MemberId(member))))
}

/// Frees a configuration. Groups that were joined with it do not need it any more.
///
/// NULL and a handle that was already freed are ignored. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_config_free(config: *mut galerna_config_t) {
    border::call(|| CONFIGS.remove(config, |_| {}).map(drop));
}

/// Returns a checked copy of a configuration.
pub(crate) fn get(config: *const galerna_config_t) -> Result<Config, Failure> {
    CONFIGS.with(config, |draft| Ok(lock_briefly(draft).ok_or(Error::Forked)?.config()?))
}

fn change(
    config: *const galerna_config_t,
    change: impl FnOnce(&mut Draft) -> Result<(), Error>,
) -> Result<(), Failure> {
    CONFIGS.with(config, |draft| Ok(change(&mut *lock_briefly(draft).ok_or(Error::Forked)?)?))
}

fn create(out: &Out<*mut galerna_config_t>, config: impl FnOnce() -> Result<Draft, Failure>) -> Result<(), Failure> {
    out.set(std::ptr::null_mut());
    out.set(CONFIGS.insert(Mutex::new(config()?))?);
    Ok(())
}
