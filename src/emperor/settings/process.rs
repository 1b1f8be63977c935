//! The options that concern the process itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::SettingsError;
use super::reader::{Reader, os};
use crate::config::values;
use crate::emperor::process::{Change, Hooks, Limits, Logs, PidFiles, ProcessOptions, TitleOptions};
use crate::vassal::hook::{Awaited, Who};
use crate::vassal::plan::Text;

impl Reader<'_> {
    /// What the process is to do to itself.
    ///
    /// # Errors
    /// A hook or a capability that is none.
    pub(super) fn process(&self) -> Result<ProcessOptions, SettingsError> {
        let config = self.0;
        let paths = |option| self.paths(option).into_iter().map(PathBuf::from).collect::<Vec<_>>();
        let path = |option| self.path(option).map(PathBuf::from);
        let who = |option| self.text(option).map(|name| Who::parse(&name));
        Ok(ProcessOptions {
            early: config.flag("early-emperor"),
            umask: config.string("umask").and_then(|got| values::umask(got.value)),
            environment: self.environment(),
            env_dirs: paths("envdir"),
            logs: Logs {
                logto: self.text("logto"),
                logto2: self.text("logto2"),
                daemonize: self.text("daemonize"),
                daemonize2: self.text("daemonize2"),
            },
            pid_files: PidFiles {
                before_drop: path("pidfile"),
                after_drop: path("pidfile2"),
                when_ready: [path("safe-pidfile"), path("safe-pidfile2")].into_iter().flatten().collect(),
                emperor: path("emperor-pidfile"),
                vacuum: config.flag("vacuum"),
            },
            hooks: self.phases()?,
            jailed: config.flag("jailed"),
            file_writes: self.file_writes(),
            waits: self.waits(),
            socket_waits: self.paths("wait-for-socket").into_iter().map(Text::from).collect(),
            wait_limit: self.wait_limit(),
            chroot: path("chroot"),
            uid: who("uid"),
            gid: who("gid"),
            add_gid: self.paths("add-gid").iter().map(|name| Who::parse(&name.to_string_lossy())).collect(),
            no_initgroups: config.flag("no-initgroups"),
            cap: self.capabilities("cap")?,
            chdir: path("chdir"),
            limits: Limits {
                address_space_bytes: config.unsigned("limit-as").map(|got| got.value.saturating_mul(1 << 20)),
                processes: self.old_number("limit-nproc"),
                descriptors: self.old_number("max-fd"),
                priority: config.int("prio").map(|got| got.value),
            },
            title: self.title(),
        })
    }

    /// `env` and `unenv` in their common order.
    fn environment(&self) -> Vec<Change> {
        let changes = self.0.applied().filter_map(|(option, pair)| {
            let value = OsStr::from_bytes(pair.value().unwrap_or_default());
            match option.canonical().name {
                "env" => Some(Change::parse(value)),
                "unenv" => Some(Change::Unset(value.to_owned())),
                _ => None,
            }
        });
        changes.collect()
    }

    fn phases(&self) -> Result<Hooks, SettingsError> {
        Ok(Hooks {
            asap: self.hooks(["hook-asap", "mount-asap", "umount-asap", "exec-asap"])?,
            pre_jail: self.hooks(["hook-pre-jail", "mount-pre-jail", "umount-pre-jail", "exec-pre-jail"])?,
            post_jail: self.hooks([
                "hook-post-jail",
                "mount-post-jail",
                "umount-post-jail",
                "exec-post-jail",
            ])?,
            in_jail: self.hooks(["hook-in-jail", "mount-in-jail", "umount-in-jail", "exec-in-jail"])?,
            as_root: self.hooks(["hook-as-root", "mount-as-root", "umount-as-root", "exec-as-root"])?,
            as_user: self.hooks(["hook-as-user", "exec-as-user"])?,
            as_user_atexit: self.hooks(["hook-as-user-atexit", "exec-as-user-atexit"])?,
        })
    }

    fn file_writes(&self) -> Vec<(PathBuf, Text)> {
        let writes = self.0.list("file-write").filter_map(|got| {
            let (file, text) = values::split_first(got.value, b'=')?;
            Some((os(file).into(), Text::from(os(text))))
        });
        writes.collect()
    }

    fn waits(&self) -> Vec<(Awaited, Text)> {
        let kinds = [
            ("wait-for-fs", Awaited::Entry),
            ("wait-for-mountpoint", Awaited::MountPoint),
            ("wait-for-interface", Awaited::Interface),
        ];
        let waits = kinds.into_iter().flat_map(|(option, what)| {
            self.paths(option).into_iter().map(move |path| (what, Text::from(path)))
        });
        waits.collect()
    }

    fn wait_limit(&self) -> Option<Duration> {
        let options = ["wait-for-fs-timeout", "wait-for-interface-timeout", "wait-for-socket-timeout"];
        options.iter().find_map(|option| self.old_number(option)).map(Duration::from_secs)
    }

    fn title(&self) -> Option<String> {
        let name =
            ["emperor-procname", "procname-master", "procname"].iter().find_map(|option| self.text(option));
        let spaced = self.text("procname-prefix-spaced").map(|prefix| prefix + " ");
        let prefix = spaced.or_else(|| self.text("procname-prefix")).unwrap_or_default();
        let append = self.text("procname-append").unwrap_or_default();
        let auto = self.0.flag("auto-procname");
        TitleOptions { name: name.as_deref(), auto, prefix: &prefix, append: &append }.title()
    }
}
