//! What a vassal may do: capabilities, system calls, Landlock, limits and priorities.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::Level;
use crate::vassal::plan::{
    CallFilter, CallSet, Capabilities, Families, Granted, Limit, Limits, NamespaceKinds, Op, Privilege, Text,
    Trees,
};

mod read;

/// What a vassal may do. The default takes nothing away.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Privileges {
    /// No exec gives more than there is. Filters and Landlock set it anyway.
    pub no_new_privileges: bool,
    /// What may ever be had; `None` leaves it as it is.
    pub bounding: Option<Bounding>,
    /// What a program has that is not root, also after an exec.
    pub ambient: Capabilities,
    /// Whether user 0 means nothing to capabilities any more, for a program that does not start as root.
    pub lock_secure_bits: bool,
    /// Whether it has a session keyring of its own.
    pub own_keyring: bool,
    /// What it may ask of the kernel.
    pub calls: CallFilter,
    /// Whether its view of the file system has a second wall.
    pub landlock: Landlock,
    /// What the kernel counts.
    pub limits: Limits,
}

/// The bounding set.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bounding {
    /// Of a uWSGI that starts as root, binds its sockets and then becomes somebody else by itself.
    pub of_root: Capabilities,
    /// Of any other.
    pub of_others: Capabilities,
}

/// Whether Landlock is used.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landlock {
    /// Not.
    #[default]
    No,
    /// As far as the kernel can.
    BestEffort,
    /// A kernel without it starts nothing.
    Yes,
}

/// As whom the program is executed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// Root, and uWSGI, which then becomes somebody else by itself.
    Root,
    /// Root, and any other program.
    RootForGood,
    /// Somebody else than the emperor: an operation of the plan changes the user.
    Another,
    /// The emperor's own user, who is not root.
    Same,
}

/// What a uWSGI needs that starts as root, to bind its sockets, to own its files and to become somebody else: `chown`,
/// `dac_override`, `fowner`, `kill`, `setgid`, `setuid`, `setpcap`, `net_bind_service`. What is not here no longer
/// exists for it, whatever it does.
pub const OF_ROOT: Capabilities = Capabilities::from_bits(0b101_1110_1011);

/// What nobody has a use for who serves pages, and attackers do. Of `@privileged` the changes of user and owner stay,
/// which a uWSGI that starts as root needs and which are worth nothing without capabilities.
const REFUSED: &str = "@clock @cpu-emulation @debug @keyring @module @mount @obsolete @raw-io @reboot @swap acct bpf \
    fanotify_init fanotify_mark io_uring_enter io_uring_register io_uring_setup kcmp name_to_handle_at nfsservctl \
    open_by_handle_at process_vm_readv process_vm_writev quotactl quotactl_fd setdomainname sethostname syslog \
    userfaultfd vhangup";

/// What servers ask for.
const ALLOWED: &str = "@system-service @sandbox @pkey process_mrelease";

impl Privileges {
    /// What `sandbox` means for privileges.
    #[must_use]
    pub fn level(level: Level) -> Self {
        // To look up some hundred names takes longer than all the rest of a decision.
        static LEVELS: LazyLock<[Privileges; 2]> =
            LazyLock::new(|| [Privileges::of_level(Level::Standard), Privileges::of_level(Level::Strict)]);
        match level {
            Level::None => Self::default(),
            Level::Standard => LEVELS[0].clone(),
            Level::Strict => LEVELS[1].clone(),
        }
    }

    fn of_level(level: Level) -> Self {
        let set = |words: &str| CallSet::of_words(words.split_ascii_whitespace()).unwrap_or_default();
        let families = |names: &[&str]| {
            Families(names.iter().filter_map(|name| Families::named(name)).fold(0, |all, one| all | one.0))
        };
        let standard = || Self {
            no_new_privileges: true,
            bounding: Some(Bounding { of_root: OF_ROOT, of_others: Capabilities::default() }),
            ambient: Capabilities::default(),
            lock_secure_bits: true,
            own_keyring: true,
            calls: CallFilter {
                refused: set(REFUSED),
                native_only: true,
                namespaces: NamespaceKinds::ALL,
                families: Some(families(&["unix", "inet", "inet6", "netlink"])),
                personality: true,
                terminal: true,
                ..CallFilter::default()
            },
            landlock: Landlock::No,
            limits: Limits { core: Some(Granted::by_root(Limit::of(0))), ..Limits::default() },
        };
        match level {
            Level::None => Self::default(),
            Level::Standard => standard(),
            Level::Strict => {
                let standard = standard();
                let calls = CallFilter {
                    refused: standard.calls.refused.with(&set(ALLOWED).others()),
                    unknown_refused: true,
                    families: Some(families(&["unix", "inet", "inet6"])),
                    realtime: true,
                    suid_sgid: true,
                    ..standard.calls
                };
                Self { calls, landlock: Landlock::BestEffort, ..standard }
            }
        }
    }

    /// The stricter of two, one by one. What is granted (capabilities, higher limits) counts where either grants it
    /// and neither forbids it: put a tenant's wish through [`of_tenant`](Self::of_tenant) first.
    #[must_use]
    pub fn joined(self, other: &Self) -> Self {
        let bounding = match (self.bounding, other.bounding) {
            (Some(one), Some(two)) => Some(Bounding {
                of_root: one.of_root.common(two.of_root),
                of_others: one.of_others.common(two.of_others),
            }),
            (one, two) => one.or(two),
        };
        let ambient = self.ambient.with(other.ambient);
        Self {
            no_new_privileges: self.no_new_privileges | other.no_new_privileges,
            bounding,
            ambient: bounding.map_or(ambient, |bounding| ambient.common(bounding.of_others)),
            lock_secure_bits: self.lock_secure_bits | other.lock_secure_bits,
            own_keyring: self.own_keyring | other.own_keyring,
            calls: self.calls.joined(&other.calls),
            landlock: self.landlock.max(other.landlock),
            limits: self.limits.joined(&other.limits),
        }
    }

    /// As a tenant wishes it: all that takes away, nothing that gives.
    #[must_use]
    pub fn of_tenant(self) -> Self {
        Self { ambient: Capabilities::default(), limits: self.limits.of_tenant(), ..self }
    }

    /// The capabilities that were wished for and that `outcome`, this joined with a policy, does not give: somebody
    /// should be told.
    #[must_use]
    pub fn denied(&self, outcome: &Self) -> Capabilities {
        self.ambient.without(outcome.ambient)
    }

    /// First of all, in the emperor's view of the system, whose /proc they need: priorities.
    #[must_use]
    pub fn first_ops(&self) -> Vec<Op> {
        limits(&self.limits.priorities())
    }

    /// After the view is made and process 1 is left behind, which need more descriptors and another umask than the
    /// vassal has; before a user namespace, in which no limit can be raised.
    #[must_use]
    pub fn limit_ops(&self) -> Vec<Op> {
        limits(&self.limits.but_priorities())
    }

    /// After the view is made, right before the change of user: what takes root's powers to give up.
    #[must_use]
    pub fn ops_before_identity(&self, start: Start) -> Vec<Op> {
        let mut ops = Vec::new();
        if let Some(bounding) = self.bounding {
            let keep = if start == Start::Root { bounding.of_root } else { bounding.of_others };
            let sealed = self.needs_no_new_privileges();
            ops.push(Op::Privilege(Privilege::Bound { keep, sealed }));
        }
        if self.own_keyring {
            ops.push(Op::OwnKeyring);
        }
        // Root would not get the capabilities that it keeps: neither by its first exec nor when it executes itself anew.
        if self.lock_secure_bits && !matches!(start, Start::Root | Start::RootForGood) {
            ops.push(Op::Privilege(Privilege::LockSecureBits));
        }
        ops
    }

    /// After the change of user and the parent-death signal, before the environment: what takes no powers.
    ///
    /// The trees are those of the view, as the vassal sees them.
    #[must_use]
    pub fn ops_after_identity(&self, start: Start, read_only: &[Text], read_write: &[Text]) -> Vec<Op> {
        let mut ops = Vec::new();
        // An emperor that is not root may have capabilities, which its launchers have as well.
        let bounded = self.bounding.is_some() || self.ambient != Capabilities::default();
        if start == Start::Same && bounded {
            ops.push(Op::Privilege(Privilege::Keep(self.ambient)));
        }
        if self.needs_no_new_privileges() {
            ops.push(Op::Privilege(Privilege::NoNewPrivileges));
        }
        if self.landlock != Landlock::No {
            let required = self.landlock == Landlock::Yes;
            ops.push(Op::Landlock(Trees {
                read_only: read_only.to_vec(),
                read_write: read_write.to_vec(),
                required,
            }));
        }
        ops
    }

    /// After everything, before the exec.
    #[must_use]
    pub fn last_ops(&self) -> Vec<Op> {
        let calls = (!self.calls.is_none()).then(|| Op::SystemCalls(self.calls.clone()));
        calls.into_iter().collect()
    }

    fn needs_no_new_privileges(&self) -> bool {
        self.no_new_privileges || self.landlock != Landlock::No || !self.calls.is_none()
    }
}

fn limits(limits: &Limits) -> Vec<Op> {
    if limits.is_none() { Vec::new() } else { vec![Op::Limits(limits.clone())] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(level: Level, start: Start) -> String {
        let privileges = Privileges::level(level);
        let mut ops = privileges.first_ops();
        ops.extend(privileges.limit_ops());
        ops.extend(privileges.ops_before_identity(start));
        ops.extend(privileges.ops_after_identity(start, &["/usr".into()], &["/srv/a".into(), "/tmp".into()]));
        ops.extend(privileges.last_ops());
        ops.iter().map(|op| format!("{op}\n")).collect()
    }

    #[test]
    fn no_level_takes_nothing() {
        assert_eq!(plan(Level::None, Start::Root), "");
        assert_eq!(Privileges::level(Level::None), Privileges::default());
    }

    #[test]
    fn the_plan_of_a_standard_vassal() {
        insta_like(
            &plan(Level::Standard, Start::Another),
            "limits core 0
capabilities keep none in the bounding set
keyring of its own
secure-bits root is nobody special, locked
no-new-privileges
system-calls refused: 64 calls; namespaces all; personality; typing for others; other machines' calls; sockets only: unix,inet,inet6,netlink
",
        );
    }

    #[test]
    fn the_plan_of_a_standard_vassal_that_starts_as_root() {
        insta_like(
            &plan(Level::Standard, Start::Root),
            "limits core 0
capabilities keep chown,dac_override,fowner,kill,setgid,setuid,setpcap,net_bind_service in the bounding set
keyring of its own
no-new-privileges
system-calls refused: 64 calls; namespaces all; personality; typing for others; other machines' calls; sockets only: unix,inet,inet6,netlink
",
        );
    }

    #[test]
    fn the_plan_of_a_command_that_starts_as_root_leaves_it_no_capability() {
        let plan = plan(Level::Standard, Start::RootForGood);
        assert!(
            plan.contains("capabilities keep none in the bounding set\nkeyring of its own\nno-new"),
            "{plan}"
        );
    }

    #[test]
    fn the_plan_of_a_strict_vassal_of_an_emperor_that_is_not_root() {
        insta_like(
            &plan(Level::Strict, Start::Same),
            "limits core 0
capabilities keep none in the bounding set
keyring of its own
secure-bits root is nobody special, locked
capabilities hold none, also after an exec
no-new-privileges
landlock read /usr; write /srv/a /tmp (best effort)
system-calls refused: 71 calls; unknown calls; namespaces all; real-time scheduling; set-id files; personality; typing for others; other machines' calls; sockets only: unix,inet,inet6
",
        );
    }

    /// The number of calls that a level refuses is that of x86_64.
    fn insta_like(found: &str, wanted: &str) {
        if cfg!(target_arch = "x86_64") {
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn of_two_levels_the_stricter_holds_whoever_asks_first() {
        use Level::{None, Standard, Strict};
        for (one, two) in [(None, Standard), (Standard, Strict), (None, Strict), (Strict, Strict)] {
            let stricter = Privileges::level(one.max(two));
            assert_eq!(Privileges::level(one).joined(&Privileges::level(two)), stricter);
            assert_eq!(Privileges::level(two).joined(&Privileges::level(one)), stricter);
        }
    }

    #[test]
    fn a_tenant_gets_no_capability_unless_root_grants_it() {
        let bind = Capabilities::parse("net_bind_service").unwrap().0;
        let wish = Privileges { ambient: bind, ..Privileges::default() };
        let policy = Privileges::level(Level::Standard);
        assert_eq!(wish.clone().of_tenant().joined(&Privileges::default()).ambient.bits(), 0);
        assert_eq!(wish.clone().joined(&policy).ambient.bits(), 0, "the policy has bounded it");
        assert_eq!(wish.denied(&wish.clone().joined(&policy)), bind);
        let granting = Privileges { ambient: bind, ..Privileges::default() };
        assert_eq!(Privileges::default().of_tenant().joined(&granting).ambient, bind);
    }

    #[test]
    fn the_terms_of_a_tenant_hold_no_more_than_they_may() {
        let wish = Privileges::level(Level::Strict);
        let json = serde_json::to_string(&wish).unwrap();
        assert_eq!(serde_json::from_str::<Privileges>(&json).unwrap(), wish);
        assert!(json.len() < 1024, "{}", json.len());
        assert!(serde_json::from_str::<Privileges>("{\"uid\":0}").is_err());
    }
}
