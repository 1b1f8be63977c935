//! Reading typed values out of a configuration.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use super::SettingsError;
use crate::config::{self, Config, Got};
use crate::vassal::hook::Hook;

/// A configuration, asked by option names.
pub(super) struct Reader<'c>(pub(super) &'c Config);

impl Reader<'_> {
    pub(super) fn path(&self, option: &str) -> Option<OsString> {
        self.0.string(option).filter(|got| !got.value.is_empty()).map(|got| os(got.value))
    }

    pub(super) fn paths(&self, option: &str) -> Vec<OsString> {
        self.0.list(option).map(|got| os(got.value)).collect()
    }

    /// Seconds of an old option, or its default.
    pub(super) fn seconds(&self, option: &str, default: u64) -> Duration {
        Duration::from_secs(self.old_number(option).unwrap_or(default))
    }

    pub(super) fn old_number(&self, option: &str) -> Option<u64> {
        self.0.int(option).map(|got| u64::try_from(got.value).unwrap_or(0))
    }

    /// A number of an option of ours, or its default.
    pub(super) fn new_number(&self, option: &str, most: i64, default: u64) -> Result<u64, SettingsError> {
        let got = self.0.int_in(option, 0..=most)?;
        Ok(got.map_or(default, |got| got.value.unsigned_abs()))
    }

    pub(super) fn word<T: Copy>(
        &self,
        option: &'static str,
        words: &[(&str, T)],
    ) -> Result<T, SettingsError> {
        let Some(Got { value, origin }) = self.0.string(option) else { return Ok(words[0].1) };
        let wrong = |cause| SettingsError::Value { place: origin.clone(), option, cause };
        config::words::choose(&String::from_utf8_lossy(value), words).map_err(wrong)
    }

    /// The hooks of several options, one option after the other, as the old server runs them.
    pub(super) fn hooks<const N: usize>(
        &self,
        options: [&'static str; N],
    ) -> Result<Vec<Hook>, SettingsError> {
        let mut hooks = Vec::new();
        for option in options {
            for Got { value, origin } in self.0.list(option) {
                let text = OsStr::from_bytes(value);
                let hook = match option.split('-').next() {
                    Some("exec") => Ok(Hook::exec(text)),
                    Some("mount") => Hook::mount(text),
                    Some("umount") => Hook::unmount(text),
                    _ => Hook::parse(text),
                };
                hooks.push(hook.map_err(|cause| SettingsError::Value {
                    place: origin.clone(),
                    option,
                    cause: cause.to_string(),
                })?);
            }
        }
        Ok(hooks)
    }

    /// A text option; bytes that are no text are shown as such.
    pub(super) fn text(&self, option: &str) -> Option<String> {
        self.path(option).map(|value| value.to_string_lossy().into_owned())
    }
}

pub(super) fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}
