//! The jail of uWSGI's own options, for a command vassal: the launcher does what uWSGI would do itself.
//!
//! `docs/migration.md` says in what it differs on purpose. All but `unshare`, `chdir` and the hooks `as-user` takes root's
//! rights to do, and is refused in a tenant's file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::view::{View, Wish};
use super::{Asked, TermsError};
use crate::config::Got;
use crate::vassal::hook::{Action, Hook, Kind};
use crate::vassal::plan::scene::{Bind, Entry, What};
use crate::vassal::plan::{Namespaces, NewRoot, Op, Text};

/// The moments for which there are hooks, each with the options of its hooks in the order in which they run.
const PHASES: [(&str, [&str; 4]); 6] = [
    ("asap", ["hook-asap", "mount-asap", "umount-asap", "exec-asap"]),
    ("pre-jail", ["hook-pre-jail", "mount-pre-jail", "umount-pre-jail", "exec-pre-jail"]),
    ("post-jail", ["hook-post-jail", "mount-post-jail", "umount-post-jail", "exec-post-jail"]),
    ("in-jail", ["hook-in-jail", "mount-in-jail", "umount-in-jail", "exec-in-jail"]),
    ("as-root", ["hook-as-root", "mount-as-root", "umount-as-root", "exec-as-root"]),
    ("as-user", ["hook-as-user", "", "", "exec-as-user"]),
];
/// Most hooks, and most paths of `namespace-keep-mount`.
const MOST: usize = 256;

/// What a file asks for by uWSGI's options. The default asks for nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Phases {
    /// `hook-PHASE`, `mount-PHASE`, `umount-PHASE`, `exec-PHASE`: the phase, and what is done then.
    pub hooks: Vec<(String, Hook)>,
    /// `unshare`, `unshare2`
    pub unshare: Namespaces,
    /// `setns`
    pub setns: Option<Text>,
    /// `chroot`
    pub chroot: Option<Text>,
    /// `pivot-root`: the new root, and where the old one goes.
    pub pivot_root: Option<(Text, Text)>,
    /// `namespace`, with `namespace-keep-mount`
    pub namespace: Option<Namespace>,
    /// `chdir`, then `chdir2`
    pub directories: Vec<Text>,
}

/// A directory that becomes the root, in namespaces of its own.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// The directory.
    pub root: Text,
    /// The host name.
    pub hostname: Option<Text>,
    /// What is kept of the host: its path there, and in the new root.
    pub keep: Vec<(Text, Text)>,
}

impl Phases {
    /// What a file says.
    ///
    /// # Errors
    /// The option that cannot be understood, with its place.
    pub fn read(asked: Asked<'_>) -> Result<Self, TermsError> {
        let mut phases = Self { hooks: hooks(asked)?, setns: asked.text("setns"), ..Self::default() };
        for option in ["unshare", "unshare2"] {
            let words = asked.parsed(option, Namespaces::parse)?.map(|(words, _)| words).unwrap_or_default();
            phases.unshare = phases.unshare.and(words);
        }
        phases.chroot = asked.text("chroot");
        phases.pivot_root = asked.value("pivot-root").map(|got| pivot_root(&got)).transpose()?;
        phases.namespace = asked.value("namespace").map(|got| namespace(asked, &got)).transpose()?;
        if asked.0.has("namespace-net") {
            phases.unshare.net |= phases.namespace.is_some();
        }
        phases.directories =
            ["chdir", "chdir2"].into_iter().filter_map(|option| asked.text(option)).collect();
        Ok(phases)
    }

    /// As a tenant may ask.
    ///
    /// # Errors
    /// What takes root's rights.
    pub fn of_tenant(self) -> Result<Self, String> {
        let asks = [
            (self.setns.is_some(), "setns"),
            (self.chroot.is_some(), "chroot"),
            (self.pivot_root.is_some(), "pivot-root"),
            (self.namespace.is_some(), "namespace"),
        ];
        let hook = self.hooks.iter().find(|(phase, _)| phase != "as-user").map(|(phase, _)| phase.as_str());
        let option = asks.iter().find(|(asked, _)| *asked).map(|(_, option)| *option);
        match option.map(String::from).or_else(|| hook.map(|phase| format!("a hook {phase}"))) {
            Some(what) => Err(format!(
                "{what} takes root's rights, and the file is a tenant's: use `bind`, `private-root` and their kin"
            )),
            None if self.hooks.len() > MOST => Err(format!("there are more than {MOST} hooks")),
            None => Ok(self),
        }
    }

    /// Whether the file asks for nothing of it.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The view, with what comes of these options.
    #[must_use]
    pub fn onto(&self, view: View) -> View {
        let all = self.namespace.is_some();
        let mut view = View {
            private_pids: view.private_pids || self.unshare.pid || all,
            private_ipc: view.private_ipc || self.unshare.ipc || all,
            protect_hostname: view.protect_hostname || self.unshare.uts || all,
            private_network: view.private_network || self.unshare.net,
            private_mounts: view.private_mounts || self.unshare.mount || self.pivot_root.is_some(),
            private_users: if self.unshare.user { Wish::Yes } else { view.private_users },
            ..view
        };
        if let Some(namespace) = &self.namespace {
            view.root_directory = Some(namespace.root.clone());
            let kept = |(source, target): &(Text, Text)| {
                let bind = Bind { source: source.clone(), ..Bind::default() };
                Entry::new(target.clone(), What::Bind(bind))
            };
            view.kept_mounts = namespace.keep.iter().map(kept).collect();
        }
        view
    }

    /// Before the view, as root and on the host: `asap`, then the namespaces of others, then `pre-jail`.
    #[must_use]
    pub fn ops_before_view(&self) -> Vec<Op> {
        let join = self.setns.clone().map(Op::JoinNamespaces);
        self.hooks_of("asap").chain(join).chain(self.hooks_of("pre-jail")).collect()
    }

    /// In the view, as root: `post-jail`, the new root, `in-jail`.
    #[must_use]
    pub fn ops_in_view(&self) -> Vec<Op> {
        let hostname = self.namespace.as_ref().and_then(|namespace| namespace.hostname.clone());
        let hostname = hostname.map(|name| {
            let hook =
                Hook { text: name.clone(), action: Action::HostName(name), hidden: false, kind: Kind::Hook };
            Op::Hook { hook, phase: "namespace".into(), fatal: true }
        });
        let chroot = self.chroot.clone().map(|path| Op::Root(NewRoot::Change(path)));
        let pivot = self.pivot_root.clone().map(|(new, old)| Op::Root(NewRoot::Pivot { new, old }));
        let root = hostname.into_iter().chain(self.hooks_of("post-jail")).chain(chroot).chain(pivot);
        root.chain(self.hooks_of("in-jail")).collect()
    }

    /// Right before the identity changes.
    #[must_use]
    pub fn ops_as_root(&self) -> Vec<Op> {
        self.hooks_of("as-root").collect()
    }

    /// As the vassal, with its environment: `as-user`, and where it starts.
    #[must_use]
    pub fn ops_as_user(&self) -> Vec<Op> {
        self.hooks_of("as-user").chain(self.directories.iter().cloned().map(Op::ChangeDir)).collect()
    }

    fn hooks_of(&self, phase: &'static str) -> impl Iterator<Item = Op> {
        let hooks = self.hooks.iter().filter(move |(at, _)| at == phase);
        hooks.map(move |(_, hook)| Op::Hook { hook: hook.clone(), phase: phase.into(), fatal: true })
    }
}

fn hooks(asked: Asked<'_>) -> Result<Vec<(String, Hook)>, TermsError> {
    let mut hooks = Vec::new();
    for (phase, options) in PHASES {
        for option in options.into_iter().filter(|option| !option.is_empty()) {
            for got in asked.0.list(option) {
                let words = OsStr::from_bytes(got.value);
                let hook = match option.split('-').next() {
                    Some("mount") => Hook::mount(words),
                    Some("umount") => Hook::unmount(words),
                    Some("exec") => Ok(Hook::exec(words)),
                    _ => Hook::parse(words),
                };
                let wrong = |cause: String| TermsError::new(&got, option, cause);
                hooks.push((phase.to_owned(), hook.map_err(|error| wrong(error.to_string()))?));
                if hooks.len() > MOST {
                    return Err(wrong(format!("there are more than {MOST} hooks")));
                }
            }
        }
    }
    Ok(hooks)
}

/// `NEW OLD`, the second inside of the first.
fn pivot_root(got: &Got<'_, &[u8]>) -> Result<(Text, Text), TermsError> {
    let words: Vec<_> = got.value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    match words[..] {
        [new, old] => Ok((text(new), text(old))),
        _ => Err(TermsError::new(
            got,
            "pivot-root",
            "`NEW_ROOT OLD_ROOT` is wanted, the second inside of the first",
        )),
    }
}

/// `DIRECTORY[:HOSTNAME]`
fn namespace(asked: Asked<'_>, got: &Got<'_, &[u8]>) -> Result<Namespace, TermsError> {
    let (root, hostname) = cut(got.value);
    let root_text = text(root);
    let mut keep = Vec::new();
    for got in asked.0.list("namespace-keep-mount") {
        let (source, target) = cut(got.value);
        // Without a target, the path below the directory, without its name.
        let target = match target {
            Some(target) => text(target),
            None => match text(source).as_path().strip_prefix(root_text.as_path()) {
                Ok(inside) => Text::from(std::path::Path::new("/").join(inside).into_os_string()),
                Err(_) => text(source),
            },
        };
        keep.push((text(source), target));
        if keep.len() > MOST {
            let cause = format!("there are more than {MOST} of them");
            return Err(TermsError::new(&got, "namespace-keep-mount", cause));
        }
    }
    Ok(Namespace { root: root_text, hostname: hostname.map(text), keep })
}

fn cut(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    match value.iter().position(|byte| *byte == b':') {
        Some(at) => (&value[..at], Some(&value[at + 1..])),
        None => (value, None),
    }
}

fn text(bytes: &[u8]) -> Text {
    Text::from(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::super::view::Around;
    use super::*;

    fn read(lines: &str) -> Result<Phases, String> {
        Phases::read(Asked(&config(lines))).map_err(|error| error.to_string())
    }

    #[test]
    fn parity_phases_come_in_the_documented_order_and_hooks_before_mounts_and_commands() {
        let phases = read(
            "exec-as-root = c\nhook-as-root = print:a\nmount-as-root = tmpfs none /x\nhook-in-jail = print:in\n\
             hook-post-jail = print:post\nhook-pre-jail = print:pre\nhook-asap = print:asap\nsetns = /s\n\
             unshare = pid,uts\nunshare2 = fs\nchroot = /jail\nhook-as-user = print:u\nchdir = /a\nchdir2 = /b\n",
        )
        .unwrap();
        let view = phases.onto(View::default());
        let around = Around::default();
        let ops = [
            view.first_ops(),
            phases.ops_before_view(),
            view.ops(&around),
            phases.ops_in_view(),
            view.init_ops(false),
            phases.ops_as_root(),
            phases.ops_as_user(),
        ];
        let printed: Vec<String> = ops.concat().iter().map(ToString::to_string).collect();
        let expected = [
            "pid-namespace",
            "hook \"print:asap\" (asap)",
            "setns /s",
            "hook \"print:pre\" (pre-jail)",
            "namespaces of its own: mount,uts",
            "view of the host: /proc proc hidepid=off",
            "hook \"print:post\" (post-jail)",
            "root is /jail",
            "hook \"print:in\" (in-jail)",
            "init stays as process 1",
            "hook \"print:a\" (as-root)",
            "mount \"tmpfs none /x\" (as-root)",
            "command \"c\" (as-root)",
            "hook \"print:u\" (as-user)",
            "chdir /a",
            "chdir /b",
        ];
        assert_eq!(printed, expected);
    }

    #[test]
    fn parity_a_namespace_keeps_what_it_is_told_to() {
        let lines = "namespace = /ns/001:box\nnamespace-keep-mount = /usr\nnamespace-keep-mount = /ns/001/data\n\
            namespace-keep-mount = /dev:/dev\nnamespace-net = true\n";
        let phases = read(lines).unwrap();
        let view = phases.onto(View::default());
        let printed: Vec<String> = view.ops(&Around::default()).iter().map(ToString::to_string).collect();
        let expected =
            "view of /ns/001: /data bind /ns/001/data; /dev bind; /proc proc hidepid=off; /usr bind";
        assert_eq!(printed, ["namespaces of its own: mount,ipc,uts,net", expected]);
        assert_eq!(phases.ops_in_view()[0].to_string(), "hook \"box\" (namespace)");
    }

    #[test]
    fn what_takes_roots_rights_is_no_tenants() {
        for (line, what) in [
            ("chroot = /x", "chroot"),
            ("pivot-root = /x /x/old", "pivot-root"),
            ("namespace = /x", "namespace"),
            ("setns = /x", "setns"),
            ("hook-as-root = print:x", "a hook as-root"),
            ("mount-asap = tmpfs none /x", "a hook asap"),
            ("exec-in-jail = id", "a hook in-jail"),
        ] {
            let refused = read(&format!("{line}\n")).unwrap().of_tenant().unwrap_err();
            assert!(refused.starts_with(&format!("{what} takes root's rights")), "{refused}");
        }
        assert!(read("unshare = net\nchdir = /\nexec-as-user = id\n").unwrap().of_tenant().is_ok());
        assert!(read("master = true\n").unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_understood_is_told_with_its_place() {
        for (line, why) in [
            ("pivot-root = /x", ":2: pivot-root: `NEW_ROOT OLD_ROOT` is wanted"),
            ("hook-as-root = explode:x", ":2: hook-as-root: hook action not found"),
        ] {
            let refused = read(&format!("{line}\n")).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
