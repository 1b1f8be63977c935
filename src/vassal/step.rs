//! The one table of a launch's steps: stable name ↔ exit status ↔ what a person reads.
//!
//! A launcher that cannot go on ends with the status of the step that failed; the same name stands in its
//! report, in the log and in the stats. Where systemd has a status for the same step it is the same number
//! (200 and up, systemd.exec(5)); 180 to 199 are ours. None is a status that uWSGI gives a meaning to
//! (0, 1, 5, 15, 17, 22, 26, 29, 30, 31, 173). The number of a step that is no more goes to `RETIRED`.

use serde::{Deserialize, Serialize};

/// Statuses that once had a meaning and never get another.
#[cfg(test)]
const RETIRED: &[u8] = &[];

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $status:literal, $name:literal, $why:literal;)*) => {
        /// What a launcher was doing.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
        pub enum Step {
            $($(#[$doc])* #[serde(rename = $name)] $step,)*
        }

        impl Step {
            /// Every step, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$step),*];

            /// Exit status of a launcher that failed here.
            #[must_use]
            pub const fn status(self) -> u8 {
                match self { $(Self::$step => $status),* }
            }

            /// The stable name, as in logs, stats and the documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$step => $name),* }
            }

            /// What could not be done, as it stands in a sentence after "cannot".
            #[must_use]
            pub const fn why(self) -> &'static str {
                match self { $(Self::$step => $why),* }
            }
        }
    };
}

steps! {
    /// Reading the plan itself.
    Plan = 180, "plan", "read its launch plan";
    /// Asking to die with the emperor.
    Emperor = 181, "emperor", "tie its life to the emperor";
    /// Becoming root of a fresh user namespace.
    UserNamespace = 182, "user-namespace", "become root of its user namespace";
    /// Finding itself as first process of a pid namespace.
    PidNamespace = 183, "pid-namespace", "be the first process of its pid namespace";
    /// Comparing the owner of the configuration with what was decided.
    Owner = 184, "owner", "confirm the owner of its configuration";
    /// Setting the environment.
    Environment = 185, "environment", "set its environment";
    /// A `hook-…` action.
    Hook = 186, "hook", "run the hook";
    /// A `mount-…` action.
    Mount = 187, "mount", "mount";
    /// A `umount-…` action.
    Unmount = 188, "umount", "unmount";
    /// A command of `exec-…`, or a start or stop hook.
    Command = 189, "command", "run the command";
    /// Replacing the supplementary groups.
    Groups = 190, "groups", "set its supplementary groups";
    /// Forking off the vassal from its subreaper.
    Reaper = 194, "reaper", "leave a subreaper behind";
    /// Enclosing it by Landlock.
    Landlock = 195, "landlock", "enclose it by landlock";
    /// Getting the sockets that somebody else offers.
    Zerg = 196, "zerg", "get the sockets of a zerg server";
    /// Joining namespaces that somebody else offers.
    JoinNamespaces = 197, "setns", "join the namespaces that it is given";
    /// Forking off the vassal from its process 1.
    Init = 198, "init", "leave a reaper behind as its process 1";
    /// Laying out what it sees of the file system.
    View = 199, "view", "lay out its view of the file system";
    /// Entering the working directory.
    ChangeDir = 200, "chdir", "enter its directory";
    /// Setting the scheduling priority.
    Nice = 201, "nice", "set its scheduling priority";
    /// Taking or passing on descriptors.
    Descriptors = 202, "descriptors", "hand over its descriptors";
    /// Executing the engine.
    Exec = 203, "exec", "execute its program";
    /// Resource limits.
    Limits = 205, "limits", "set its limits";
    /// Setting how gladly the kernel ends it when memory is short.
    OomScore = 206, "oom-score", "set its score for when memory is short";
    /// Signal mask and dispositions.
    Signals = 207, "signals", "reset its signals";
    /// Changing the root directory.
    Root = 210, "root", "change its root directory";
    /// Setting the secure bits.
    SecureBits = 213, "secure-bits", "lock its secure bits";
    /// Choosing the processors it runs on.
    Processors = 215, "cpu-affinity", "choose its processors";
    /// Opening the log.
    Log = 209, "log", "open its log";
    /// Changing the group.
    Group = 216, "group", "change its group";
    /// Changing the user.
    User = 217, "user", "change its user";
    /// Any capability set.
    Capabilities = 218, "capabilities", "limit its capabilities";
    /// Making or entering a control group.
    ControlGroup = 219, "cgroup", "enter its control group";
    /// Leaving the emperor's session.
    Session = 220, "session", "leave the emperor's terminal";
    /// Getting a network of its own ready.
    Network = 225, "network", "bring up the loopback device of its network";
    /// Entering fresh namespaces.
    Namespaces = 226, "namespaces", "enter its namespaces";
    /// Giving up new privileges.
    NoNewPrivileges = 227, "no-new-privileges", "give up new privileges";
    /// Filtering system calls.
    SystemCalls = 228, "system-calls", "filter its system calls";
    /// Leaving the emperor's keyring.
    Keyring = 237, "keyring", "get a keyring of its own";
}

impl Step {
    /// The step behind the exit status of a launcher.
    #[must_use]
    pub fn from_status(status: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|step| i32::from(step.status()) == status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_status_or_name_is_given_twice_or_collides_with_uwsgi() {
        let mut statuses: HashSet<u8> =
            RETIRED.iter().copied().chain([0, 1, 5, 15, 17, 22, 26, 29, 30, 31, 173]).collect();
        let mut names = HashSet::new();
        for step in Step::ALL {
            assert!((180..=250).contains(&step.status()), "{step:?} is out of range");
            assert!(statuses.insert(step.status()), "{step:?} repeats a status");
            assert!(names.insert(step.name()), "{step:?} repeats a name");
            assert_eq!(Step::from_status(step.status().into()), Some(*step));
        }
    }

    #[test]
    fn the_table_in_the_documentation_is_this_table() {
        let page = include_str!("../../docs/design/launcher.md");
        for step in Step::ALL {
            let row = format!("| {} | `{}` | cannot {} |", step.status(), step.name(), step.why());
            assert!(page.contains(&row), "docs/design/launcher.md lacks: {row}");
        }
    }
}
