//! A quick look at a file: can it ask for anything at all?

use crate::config::options::{self, Kind};

/// Whether a file of these bytes may hold one of our options of a vassal, itself or by what it loads.
///
/// Wrong in one direction only: it may say yes where the whole reading then finds nothing. A kilobyte takes a few
/// microseconds, a twentieth of the whole reading.
#[must_use]
pub fn may_ask(bytes: &[u8]) -> bool {
    if bytes.windows(2).any(|two| two == b"@(") {
        return true;
    }
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    bytes.split(|byte| !is_word(byte)).filter(|word| word.len() > 1).any(is_telling)
}

fn is_telling(word: &[u8]) -> bool {
    options::find(word).is_some_and(|option| option.plugin_name() == "vassal" || option.kind == Kind::Load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_may_ask_is_told_from_one_that_cannot() {
        for asks in [
            "[uwsgi]\ncommand = x",
            "uwsgi:\n  command: x",
            "<uwsgi><sandbox>strict</sandbox></uwsgi>",
            "{\"uwsgi\": {\"memory-max\": \"1G\", \"sandbox\":\"strict\"}}",
            "[uwsgi]\nini = common.ini",
            "[uwsgi]\ninclude=other",
            "[uwsgi]\nx = @(y)",
            "[uwsgi]\nset = command=x",
        ] {
            assert!(may_ask(asks.as_bytes()), "{asks}");
        }
        for plain in ["[uwsgi]\nmaster = true\nsocket = /run/%n.sock\nmodule = app:application\n", ""] {
            assert!(!may_ask(plain.as_bytes()), "{plain}");
        }
    }
}
