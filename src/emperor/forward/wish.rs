//! Where a vassal's stats server is, by its own configuration.
//!
//! Callers: the thread that gathers, for files that we may read, and a process that has become the tenant for his.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{Loader, Mode};
use crate::emperor::hands::judge;

/// What a vassal's configuration says of its stats server.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// `stats`, as it is written there; none without one.
    pub address: Option<Vec<u8>>,
    /// `stats-http`.
    pub http: bool,
}

/// Reads it. `arguments` and `environment` are those of the vassal in this directory; `sent` is what it reads from its
/// config pipe.
///
/// # Errors
/// The configuration cannot be read; why.
pub fn look(
    directory: &Path,
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
    sent: Option<&[u8]>,
) -> Result<Wish, String> {
    let world = judge::machine(directory, sent);
    let arguments: Vec<_> = arguments.iter().map(|word| OsString::from_vec(word.clone())).collect();
    let environment: Vec<_> = environment.iter().map(|entry| judge::pair(entry)).collect();
    let config = Loader::new(&world, judge::LIMITS)
        .load(&arguments, &environment, Mode::Uwsgi)
        .map_err(|error| format!("its configuration cannot be read: {error}"))?;
    let address = config.string("stats").map(|got| got.value.trim_ascii().to_vec());
    Ok(Wish { address: address.filter(|text| !text.is_empty()), http: config.flag("stats-http") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> Result<Wish, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("shop.ini"), format!("[uwsgi]\n{text}")).unwrap();
        look(dir.path(), &[b"--ini".to_vec(), b"shop.ini".to_vec()], &[b"UWSGI_STATS_HTTP=1".to_vec()], None)
    }

    #[test]
    fn the_address_is_that_of_the_expanded_configuration() {
        let wanted = Wish { address: Some(b"/run/shop.stats".to_vec()), http: true };
        assert_eq!(wish("set = dir=/run\nstats = %(dir)/%n.stats\n").unwrap(), wanted);
        assert_eq!(wish("stats-server = /run/shop.stats\n").unwrap(), wanted);
        assert_eq!(wish("processes = 2\n").unwrap().address, None);
        assert_eq!(wish("stats =\n").unwrap().address, None);
        assert!(wish("ini = /nowhere.ini\n").unwrap_err().contains("nowhere"));
    }
}
