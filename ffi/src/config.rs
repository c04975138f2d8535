//! `galerna_config_t`: a configuration, with which a group is joined.

use crate::border::{self, Out};
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

static CONFIGS: Table<Mutex<Config>> = Table::inherited("configuration", 1);

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
        create(&out, || Ok(Config::from_toml(toml?)?))
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
        create(&out, || Ok(Config::from_file(path?)?))
    })
}

/// Sets which of the configured members this process is. Without this call the key `member` applies.
///
/// - `member`: the `id` of one of the configured members.
///
/// May be called from any thread.
///
/// Errors: GALERNA_ERR_HANDLE, GALERNA_ERR_CONFIG (there is no such member).
#[unsafe(no_mangle)]
pub extern "C" fn galerna_config_set_member(config: *mut galerna_config_t, member: u32) -> galerna_result_t {
    border::call(|| {
        CONFIGS.with(config, |config| {
            let mut config = lock_briefly(config).ok_or(Error::Forked)?;
            let changed = config.clone().with_member(MemberId(member));
            changed.own()?;
            *config = changed;
            Ok(())
        })
    })
}

/// Frees a configuration. Groups that were joined with it do not need it any more.
///
/// NULL and a handle that was already freed are ignored. May be called from any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_config_free(config: *mut galerna_config_t) {
    border::call(|| CONFIGS.remove(config, |_| {}).map(drop));
}

/// Returns a copy of a configuration.
pub(crate) fn get(config: *const galerna_config_t) -> Result<Config, Failure> {
    CONFIGS.with(config, |config| Ok(lock_briefly(config).ok_or(Error::Forked)?.clone()))
}

fn create(out: &Out<*mut galerna_config_t>, config: impl FnOnce() -> Result<Config, Failure>) -> Result<(), Failure> {
    out.set(std::ptr::null_mut());
    out.set(CONFIGS.insert(Mutex::new(config()?))?);
    Ok(())
}
