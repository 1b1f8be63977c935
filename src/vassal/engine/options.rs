//! What the engine understands of a vassal's options, and which ones it refuses.
//!
//! The rule: an option does here what it does with uWSGI, or it cannot change what is served, or the vassal is
//! refused with the option's place. None is ignored in silence.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::listen::{Address, BadAddress, all_passed, stdin_listens};
use super::site::Site;
use crate::config::options::{self, HandledBy};
use crate::config::{Config, Origin, lossy, values};

/// Why the engine does not run a vassal; reads `FILE:LINE: …`.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {reason}")]
pub(super) struct Refusal {
    place: String,
    /// The same place, but not known where something is missing.
    pub(super) origin: Origin,
    reason: Reason,
}

impl Refusal {
    /// The reason without its place; `None` if only the start can tell, because it is about inherited sockets.
    pub(super) fn lasting(&self) -> Option<String> {
        (!matches!(self.reason, Reason::NoSocket | Reason::NotHttp | Reason::PassedNotHttp))
            .then(|| self.reason.to_string())
    }
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("`{what}` needs uWSGI, the built-in engine only serves static files: apt-get install {packages}")]
    NeedsUwsgi { what: String, packages: String },
    #[error("`http-socket`: {0}")]
    Address(BadAddress),
    #[error("no `check-static` and no `static-map`: there is nothing to serve")]
    NothingToServe,
    #[error("no `http-socket`, and standard input is not a listening socket")]
    NoSocket,
    #[error(
        "standard input would speak the uwsgi protocol, the built-in engine speaks HTTP: set `protocol = http`"
    )]
    NotHttp,
    #[error(
        "what the service manager passes would speak the uwsgi protocol, the built-in engine speaks HTTP: set \
         `protocol = http`, or name its address by `http-socket`"
    )]
    PassedNotHttp,
}

/// What the engine needs to know about its vassal.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) sockets: Vec<Address>,
    pub(super) site: Site,
    /// How many connections may wait.
    pub(super) backlog: Option<u32>,
    /// Permissions of socket files.
    pub(super) mode: Option<u32>,
    /// Socket files go when the vassal does.
    pub(super) vacuum: bool,
    pub(super) chdir: Option<PathBuf>,
    pub(super) uid: Option<OsString>,
    pub(super) gid: Option<OsString>,
    pub(super) log: Option<PathBuf>,
    /// No line for each request.
    pub(super) quiet: bool,
    pub(super) name: Option<CString>,
    pub(super) heartbeat: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) die_on_idle: bool,
    /// How long running requests may take when the vassal ends gracefully.
    pub(super) mercy: Option<Duration>,
    http: bool,
}

/// Options that cannot change what this engine serves: it is one process without an application, and reads no
/// bodies.
const WITHOUT_EFFECT: &[&str] = &[
    "auto-procname",
    "buffer-size",
    "die-on-term",
    "enable-threads",
    "env",
    "harakiri",
    "lazy",
    "lazy-apps",
    "log-date",
    "log-master",
    "master",
    "max-requests",
    "memory-report",
    "no-orphans",
    "post-buffering",
    "procname-append",
    "procname-prefix",
    "procname-prefix-spaced",
    "processes",
    "single-interpreter",
    "socket-timeout",
    "strict",
    "threads",
    "thunder-lock",
    "unenv",
];

/// The one plugin that only makes uWSGI answer as this engine does by itself.
const NEEDLESS_PLUGIN: &str = "notfound";

/// Debian's packages of the plugins that are not in `uwsgi-core`.
const PACKAGES: &[(&str, &str)] = &[
    ("gevent", "uwsgi-plugin-gevent-python3"),
    ("lua", "uwsgi-plugin-lua5.1"),
    ("php", "uwsgi-plugin-php"),
    ("psgi", "uwsgi-plugin-psgi"),
    ("python", "uwsgi-plugin-python3"),
    ("rack", "uwsgi-plugin-rack-ruby3.1"),
];

impl Options {
    /// Understands a configuration that was read as uWSGI reads it.
    ///
    /// # Errors
    /// [`Refusal`], for the first option that stands in the way.
    pub(super) fn from_config(config: &Config) -> Result<Self, Refusal> {
        // uWSGI ignores what belongs to a plugin that is not loaded. Here such a line would never mean what it says.
        let foreign = config.pairs().iter().filter_map(|pair| {
            let option = options::find(pair.key()).filter(|option| !config.plugins().know(option))?;
            Some((option, pair))
        });
        let applied =
            config.applied().filter(|(option, _)| option.canonical().handled_by != HandledBy::Language);
        let mut options = Self::default();
        for (option, pair) in foreign.chain(applied) {
            let given =
                Given { key: option.canonical().name, plugin: option.plugin_name(), value: pair.value() };
            let origin = pair.origin();
            let refuse = |reason| Refusal { place: origin.to_string(), origin: origin.clone(), reason };
            options.take(&given).map_err(refuse)?;
        }
        options.complete().map_err(|reason| {
            let file = config.pairs().iter().find_map(|pair| pair.origin().file_line());
            let place = file.map_or_else(|| "command line".into(), |(file, _)| lossy(&file.given));
            Refusal { place, origin: Origin::default(), reason }
        })
    }

    fn take(&mut self, given: &Given<'_>) -> Result<(), Reason> {
        let text = OsStr::from_bytes(given.value.unwrap_or_default());
        match given.key {
            "http-socket" => {
                let address = Address::parse(&text.to_string_lossy()).map_err(Reason::Address)?;
                if !self.sockets.contains(&address) {
                    self.sockets.push(address);
                }
            }
            "check-static" => self.site.check.push(text.into()),
            "static-map" => self.site.maps.extend(mount(text.as_bytes())),
            "static-index" => self.site.index.push(text.into()),
            "static-safe" => self.site.safe.push(text.into()),
            "protocol" if text == "http" => self.http = true,
            "chmod-socket" => self.mode = values::mode3(given.value),
            "listen" => self.backlog = u32::try_from(values::atoi(given.value)).ok(),
            "chdir" => self.chdir = Some(text.into()),
            "uid" => self.uid = Some(text.into()),
            "gid" => self.gid = Some(text.into()),
            "logto" | "logto2" | "daemonize" | "daemonize2" => self.log = Some(text.into()),
            "disable-logging" => self.quiet = given.truth(),
            "vacuum" => self.vacuum = given.truth(),
            "procname" | "procname-master" => self.name = CString::new(text.as_bytes()).ok(),
            "heartbeat" => self.heartbeat = given.seconds(),
            "idle" => self.idle = given.seconds(),
            "die-on-idle" => self.die_on_idle = given.truth(),
            "reload-mercy" | "worker-reload-mercy" => self.mercy = given.seconds(),
            "plugins" | "need-plugins" => plugins(&text.to_string_lossy())?,
            key if WITHOUT_EFFECT.contains(&key) => {}
            key => return Err(needs_uwsgi(key, given.plugin)),
        }
        Ok(())
    }

    fn complete(mut self) -> Result<Self, Reason> {
        if self.site.is_empty() {
            return Err(Reason::NothingToServe);
        }
        // As uWSGI has it: behind those of the configuration. One that has the address of such a one is that one.
        for (passed, own) in all_passed() {
            match self.sockets.iter_mut().find(|address| **address == own) {
                Some(address) => *address = passed,
                None if self.http => self.sockets.push(passed),
                None => return Err(Reason::PassedNotHttp),
            }
        }
        if self.sockets.is_empty() {
            if !stdin_listens() {
                return Err(Reason::NoSocket);
            }
            if !self.http {
                return Err(Reason::NotHttp);
            }
            self.sockets.push(Address::Inherited);
        }
        Ok(self)
    }
}

/// An option as it stands in a configuration.
struct Given<'a> {
    /// Its name, never an alias.
    key: &'a str,
    /// The uWSGI plugin it belongs to, or `core`.
    plugin: &'a str,
    value: Option<&'a [u8]>,
}

impl Given<'_> {
    fn truth(&self) -> bool {
        values::truth(self.value)
    }

    /// 0 is none.
    fn seconds(&self) -> Option<Duration> {
        let seconds = u64::try_from(values::atoi(self.value)).ok().filter(|seconds| *seconds > 0);
        seconds.map(Duration::from_secs)
    }
}

/// Text without an `=` does not get here: the configuration is not read then.
fn mount(value: &[u8]) -> Option<(OsString, PathBuf)> {
    let (mount, root) = values::split_first(value, b'=')?;
    Some((OsStr::from_bytes(mount).into(), OsStr::from_bytes(root).into()))
}

/// Each plugin may have a number for the modifier it answers to in front: `0:notfound`.
fn plugins(list: &str) -> Result<(), Reason> {
    for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let name = word.rsplit(':').next().unwrap_or(word);
        if name != NEEDLESS_PLUGIN {
            return Err(needs_uwsgi(&format!("plugin = {word}"), name));
        }
    }
    Ok(())
}

fn needs_uwsgi(what: &str, plugin: &str) -> Reason {
    let found = PACKAGES.iter().find(|(name, _)| plugin.starts_with(name));
    let packages = found.map_or("uwsgi-core".into(), |(_, package)| format!("uwsgi-core {package}"));
    Reason::NeedsUwsgi { what: what.into(), packages }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, Loader, Machine, Mode};

    /// What becomes of a file `v.ini` with these lines below the section's.
    fn understand(lines: &str) -> Result<Options, String> {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("v.ini"), format!("[uwsgi]\n{lines}")).unwrap();
        let machine = Machine::new().in_directory(place.path());
        let arguments = ["--ini".into(), "v.ini".into()];
        let config = Loader::new(&machine, Limits::default()).load(&arguments, &[], Mode::Uwsgi).unwrap();
        Options::from_config(&config).map_err(|refusal| refusal.to_string())
    }

    const ENOUGH: &str = "http-socket = 127.0.0.1:8080\ncheck-static = /srv\n";

    #[test]
    fn a_vassal_of_static_files_is_understood() {
        let options = understand(
            "plugins = 0:notfound\nmaster = true\nprocesses = 4\nhttp-socket = 127.0.0.1:8080\nhttp-socket = a.sock\n\
             http-socket = 127.0.0.1:8080\ncheck-static = /srv\nstatic-map = /m=/srv/m\nstatic-index = index.html\n\
             chmod-socket = 660\nlisten = 7\nvacuum = true\nheartbeat = 3\nidle = 0\ndie-on-idle\nreload-mercy = 9",
        )
        .unwrap();
        assert_eq!(options.sockets, ["127.0.0.1:8080", "a.sock"].map(|text| Address::parse(text).unwrap()));
        assert_eq!(options.site.check, [PathBuf::from("/srv")]);
        assert_eq!(options.site.maps, [("/m".into(), "/srv/m".into())]);
        assert_eq!((options.mode, options.backlog, options.vacuum), (Some(0o660), Some(7), true));
        assert_eq!((options.heartbeat, options.idle), (Some(Duration::from_secs(3)), None));
        assert!(options.die_on_idle);
    }

    #[test]
    fn what_only_uwsgi_can_do_is_refused_with_its_place_and_the_packages() {
        for (line, what, packages) in [
            ("wsgi-file = app.py", "wsgi-file", "uwsgi-core uwsgi-plugin-python3"),
            ("php-docroot = /srv", "php-docroot", "uwsgi-core uwsgi-plugin-php"),
            ("socket = /run/x", "socket", "uwsgi-core"),
            ("http = :80", "http", "uwsgi-core"),
            ("cgi = /srv", "cgi", "uwsgi-core"),
            ("privileged-binary-patch = /bin/x", "privileged-binary-patch", "uwsgi-core"),
            ("privileged-binary-patch-arg = /bin/x y", "privileged-binary-patch-arg", "uwsgi-core"),
            ("unprivileged-binary-patch = /bin/x", "unprivileged-binary-patch", "uwsgi-core"),
            ("unprivileged-binary-patch-arg = /bin/x y", "unprivileged-binary-patch-arg", "uwsgi-core"),
            ("protocol = fastcgi", "protocol", "uwsgi-core"),
            ("plugins = notfound, python3", "plugin = python3", "uwsgi-core uwsgi-plugin-python3"),
            ("plugins = 0:psgi", "plugin = 0:psgi", "uwsgi-core uwsgi-plugin-psgi"),
        ] {
            let refusal = understand(&format!("{ENOUGH}{line}")).unwrap_err();
            let start = format!("v.ini:4: `{what}` needs uWSGI, ");
            assert!(
                refusal.starts_with(&start) && refusal.ends_with(&format!(": apt-get install {packages}")),
                "{refusal}"
            );
        }
    }

    #[test]
    fn what_is_missing_or_malformed_is_said() {
        for (lines, said) in [
            (
                "http-socket = 127.0.0.1:8080",
                "v.ini: no `check-static` and no `static-map`: there is nothing to serve",
            ),
            ("check-static = /srv", "v.ini: no `http-socket`, and standard input is not a listening socket"),
            (
                "master\nhttp-socket = x:y:z",
                "v.ini:3: `http-socket`: `x:y:z` has no port between 0 and 65535 behind its last colon; write a number, or a \
                 path without colons",
            ),
        ] {
            assert_eq!(understand(lines).unwrap_err(), said);
        }
    }
}
