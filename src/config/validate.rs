//! Values that end uWSGI at once, with the words it uses.

use super::options::{Kind, Opt};
use super::values::{self, split_first, words};

/// What has to be remembered from one value to the next.
#[derive(Debug, Default)]
pub(super) struct Checks {
    shared_sockets: i32,
}

impl Checks {
    /// # Errors
    /// The words with which uWSGI ends on this value.
    pub(super) fn value(&mut self, option: &Opt, value: Option<&[u8]>) -> Result<(), String> {
        let name = option.name;
        let bytes = value.unwrap_or_default();
        let shown = String::from_utf8_lossy(bytes);
        match option.kind {
            Kind::Int if values::atoi(value) < 0 => {
                Err(format!("invalid value for option \"{name}\": must be > 0"))
            }
            Kind::Mode3 if values::mode3(value).is_none() || name == "logfile-chmod" && bytes == b"1" => {
                Err(format!("invalid chmod value: {shown}"))
            }
            Kind::Socket => self.socket(bytes),
            Kind::SharedSocket => {
                self.shared_sockets += 1;
                if bytes.is_empty() { Err("invalid/empty uwsgi socket name".into()) } else { Ok(()) }
            }
            Kind::SocketTls if bytes.iter().filter(|b| **b == b',').count() < 2 => {
                Err(format!("invalid {name} syntax: ADDRESS,CERTIFICATE,KEY is wanted"))
            }
            Kind::ListPair if !bytes.contains(&b'=') => Err(if name.starts_with("static-map") {
                "invalid document root in static map, syntax mountpoint=docroot".into()
            } else {
                format!("invalid {name} syntax, KEY=VALUE is wanted")
            }),
            Kind::Cron if !is_cron(bytes) => Err("invalid cron syntax".into()),
            Kind::Cron2 if !is_cron2(bytes) => Err("invalid cron syntax".into()),
            Kind::Daemon => daemon(name, bytes),
            Kind::Namespaces => match words(bytes, b',')
                .find(|w| !NAMESPACES.iter().any(|n| n.as_bytes() == *w))
            {
                Some(word) => Err(format!("unknown namespace subsystem: {}", String::from_utf8_lossy(word))),
                None => Ok(()),
            },
            Kind::Capabilities if !words(bytes, b',').any(is_capability) => {
                Err(format!("no known capability in {name} = {shown}"))
            }
            Kind::Route if !name.ends_with("-label") => route(name, bytes),
            Kind::ListRegexValue | Kind::ListNameRegex if !bytes.contains(&b' ') => {
                Err(format!("invalid {name} syntax: two words are wanted"))
            }
            Kind::User | Kind::Group if name.starts_with("immediate-") && bytes == b"0" => {
                Err(format!("{name} 0 is refused"))
            }
            Kind::List if name == "hook-asap" => hook(bytes),
            Kind::List if matches!(name, "collect-header" | "pull-header") && !bytes.contains(&b' ') => {
                Err(format!("invalid {name} syntax, must be <header> <var>"))
            }
            Kind::Special if name == "safe-fd" && values::atoi(value) < 0 => {
                Err(format!("invalid file descriptor: {shown}"))
            }
            _ => Ok(()),
        }
    }

    fn socket(&mut self, address: &[u8]) -> Result<(), String> {
        let address = address.trim_ascii_start();
        if address.is_empty() {
            return Err("invalid/empty uwsgi socket name".into());
        }
        if let Some(number) = address.strip_prefix(b"=") {
            let number = values::atoi(Some(number));
            if number < 0 || number >= self.shared_sockets {
                return Err(format!("unable to use shared socket {number}"));
            }
        }
        Ok(())
    }
}

/// # Errors
/// The words with which uWSGI ends on such a hook.
pub(super) fn hook(value: &[u8]) -> Result<(), String> {
    let value = value.strip_prefix(b"!").unwrap_or(value);
    let Some((action, _)) = split_first(value, b':') else {
        return Err(format!(
            "invalid hook syntax, must be hook:args, not {}",
            String::from_utf8_lossy(value)
        ));
    };
    if HOOK_ACTIONS.iter().chain(&HOOK_ACTIONS_OF_UWSGI).any(|a| a.as_bytes() == action) {
        return Ok(());
    }
    Err(format!("hook action not found: {}", String::from_utf8_lossy(action)))
}

/// `REGEX ACTION:ARG`, or only the action; whether there is such an action is up to plugins.
fn route(name: &str, value: &[u8]) -> Result<(), String> {
    let action = match split_first(value, b' ') {
        _ if name.ends_with("-run") => value,
        Some((_, action)) => action,
        None => b"",
    };
    if action.contains(&b':') {
        return Ok(());
    }
    let what = if name.contains("-if") { "route condition" } else { "route" };
    Err(format!("invalid {what} syntax"))
}

/// Five numbers and a command.
fn is_cron(value: &[u8]) -> bool {
    let mut words = words(value, b' ');
    let number = |word: &[u8]| {
        let digits = word.strip_prefix(b"-").unwrap_or(word);
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
    };
    (&mut words).take(5).filter(|word| number(word)).count() == 5 && words.next().is_some()
}

/// `key=value,…` and a command, or only a command.
fn is_cron2(value: &[u8]) -> bool {
    match split_first(value, b' ') {
        Some((_, command)) => !command.is_empty(),
        None => !value.contains(&b'='),
    }
}

fn daemon(name: &str, value: &[u8]) -> Result<(), String> {
    if name == "attach-daemon2" {
        let has_command = words(value, b',').any(|item| {
            split_first(item, b'=').is_some_and(|(key, _)| matches!(key, b"command" | b"cmd" | b"exec"))
        });
        let text = "--attach-daemon2: you need to specify a 'command' key";
        return if has_command { Ok(()) } else { Err(text.into()) };
    }
    let wanted = usize::from(name.contains("smart")) + usize::from(name.starts_with("legion"));
    if words(value, b' ').count() > wanted { Ok(()) } else { Err(format!("invalid {name} syntax")) }
}

fn is_capability(word: &[u8]) -> bool {
    CAPABILITIES.iter().any(|c| c.as_bytes() == word) || word.iter().all(u8::is_ascii_digit)
}

/// Words of `unshare` and of `emperor-use-clone`.
const NAMESPACES: [&str; 13] =
    ["files", "ipc", "net", "io", "parent", "pid", "ns", "fs", "mount", "mnt", "sysvsem", "uts", "user"];

/// Actions of hooks that any process can do.
pub const HOOK_ACTIONS: [&str; 29] = [
    "cd",
    "chdir",
    "mkdir",
    "putenv",
    "chmod",
    "chown",
    "chown2",
    "sticky",
    "exec",
    "safeexec",
    "create",
    "creat",
    "write",
    "writen",
    "append",
    "appendn",
    "writefifo",
    "unlink",
    "mount",
    "umount",
    "hostname",
    "wait_for_fs",
    "wait_for_file",
    "wait_for_dir",
    "wait_for_socket",
    "spinningfifo",
    "exit",
    "print",
    "log",
];

/// Actions of hooks that only code inside uWSGI can do.
pub const HOOK_ACTIONS_OF_UWSGI: [&str; 9] =
    ["call", "callret", "callint", "callintret", "alarm", "rpc", "retryrpc", "unix_signal", "setprocname"];

/// Names of capabilities, in lower case and without `CAP_`; the index is the number. Source: capabilities(7).
pub const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];
