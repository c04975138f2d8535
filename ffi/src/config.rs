//! `galerna_config_t`: a configuration, before a group is joined with it.

use crate::border::{self, Out};
use crate::failure::Failure;
use crate::handle::{Table, lock_briefly};
use crate::result::galerna_result_t;
use engine::{Config, Error, MemberId};
use std::ffi::c_char;
use std::sync::Mutex;

/// A configuration. Its calls may come from any thread; the handle is a number, so a freed one is an error and no crash. A
/// forked child may use it.
pub struct galerna_config_t;

static CONFIGS: Table<Mutex<Config>> = Table::inherited("configuration", 1);

/// A configuration from TOML text, checked.
///
/// - `toml`: a string that ends with a zero byte; not kept.
/// - `out`: takes the configuration, to be freed with galerna_config_free(), or NULL after an error.
///
/// Any thread. Errors: ARGUMENT (NULL, not UTF-8), CONFIG (the text names the key), LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_config_from_toml(
    toml: *const c_char,
    out: *mut *mut galerna_config_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out` and `toml`.
        let (out, toml) = unsafe { (Out::new("out", out)?, border::text("toml", toml)) };
        create(&out, || Ok(Config::from_toml(toml?)?))
    })
}

/// A configuration from a TOML file, checked.
///
/// - `path`: the file's path, UTF-8, a string that ends with a zero byte; not kept.
/// - `out`: takes the configuration, to be freed with galerna_config_free(), or NULL after an error.
///
/// Any thread. Errors: ARGUMENT (NULL, not UTF-8), IO (the file cannot be read), CONFIG (the text names the key), LIMIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn galerna_config_from_file(
    path: *const c_char,
    out: *mut *mut galerna_config_t,
) -> galerna_result_t {
    border::call(|| {
        // SAFETY: what the documentation asks of `out` and `path`.
        let (out, path) = unsafe { (Out::new("out", out)?, border::text("path", path)) };
        create(&out, || Ok(Config::from_file(path?)?))
    })
}

/// Says which of the configured members this process is; otherwise the key `member` does.
///
/// - `member`: the `id` of one of the configured members.
///
/// Any thread. Errors: HANDLE, CONFIG (there is no such member).
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

/// Frees a configuration; groups that were joined with it do not need it any more. NULL and a second free do nothing.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn galerna_config_free(config: *mut galerna_config_t) {
    border::call(|| CONFIGS.remove(config, |_| {}).map(drop));
}

/// A copy of a configuration.
pub(crate) fn get(config: *const galerna_config_t) -> Result<Config, Failure> {
    CONFIGS.with(config, |config| Ok(lock_briefly(config).ok_or(Error::Forked)?.clone()))
}

fn create(out: &Out<*mut galerna_config_t>, config: impl FnOnce() -> Result<Config, Failure>) -> Result<(), Failure> {
    out.set(std::ptr::null_mut());
    out.set(CONFIGS.insert(Mutex::new(config()?))?);
    Ok(())
}
