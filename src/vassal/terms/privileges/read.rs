//! How a file asks for it.

use super::super::{Asked, Level, TermsError};
use super::{Bounding, Landlock, OF_ROOT, Privileges};
use crate::config::{Got, words};
use crate::vassal::plan::{
    CallFilter, CallSet, Capabilities, Families, Granted, Limit, Limits, NamespaceKinds, Processors,
};

/// Less is no address space for the launcher itself.
const LEAST_ADDRESS_SPACE_MIB: i64 = 16;
/// The launcher has as many descriptors open.
const LEAST_DESCRIPTORS: u64 = 16;

impl Privileges {
    /// What the file asks for: what it says, over what its own `sandbox` means.
    ///
    /// uWSGI reads its own options (`cap`, `prio`, `limit-as` …) itself; they are only read here for a `command`.
    ///
    /// # Errors
    /// [`TermsError`]: an option that cannot be honoured, with its place.
    pub fn read(asked: Asked<'_>, level: Level) -> Result<Self, TermsError> {
        let of_level = Self::level(level);
        let is_command = asked.value("command").is_some();
        let ambient = ambient(asked, is_command)?;
        let landlock = asked.parsed("landlock", |word| match word {
            "yes" | "true" | "1" => Ok(Landlock::Yes),
            "best-effort" => Ok(Landlock::BestEffort),
            "no" | "false" | "0" => Ok(Landlock::No),
            word => Err(words::unknown(word, ["yes", "best-effort", "no"].into_iter())),
        })?;
        let own_keyring = asked
            .parsed("keyring-mode", |word| words::choose(word, &[("private", true), ("inherit", false)]))?;
        let wanted = Self {
            no_new_privileges: asked.flag("no-new-privileges").unwrap_or(of_level.no_new_privileges),
            bounding: bounding(asked, of_level.bounding, ambient)?,
            ambient,
            lock_secure_bits: of_level.lock_secure_bits,
            own_keyring: own_keyring.unwrap_or(of_level.own_keyring),
            calls: calls(asked, of_level.calls)?,
            landlock: landlock.unwrap_or(of_level.landlock),
            limits: limits(asked, of_level.limits, is_command)?,
        };
        match asked.value("no-new-privileges").filter(|_| !wanted.no_new_privileges) {
            Some(got) if wanted.needs_no_new_privileges() => Err(TermsError::new(
                &got,
                "no-new-privileges",
                "system call filters and landlock need it: leave it out, or `sandbox`, `landlock` and all filters",
            )),
            _ => Ok(wanted),
        }
    }
}

fn ambient(asked: Asked<'_>, is_command: bool) -> Result<Capabilities, TermsError> {
    let listed = capability_list(asked, "ambient-capabilities")?.unwrap_or_default();
    let cap = if is_command { capability_list(asked, "cap")? } else { None };
    Ok(listed.with(cap.unwrap_or_default()))
}

/// A program that starts as root gets what `cap` names and no more, as under uWSGI.
fn bounding(
    asked: Asked<'_>,
    of_level: Option<Bounding>,
    ambient: Capabilities,
) -> Result<Option<Bounding>, TermsError> {
    let none = Capabilities::default();
    if let Some(set) = capability_list(asked, "capability-bounding-set")? {
        return Ok(Some(Bounding { of_root: set.with(ambient), of_others: set.with(ambient) }));
    }
    Ok(match of_level {
        level if ambient == none => level,
        None => Some(Bounding { of_root: ambient, of_others: Capabilities::from_bits(u64::MAX) }),
        Some(_) => Some(Bounding { of_root: ambient.with(OF_ROOT), of_others: ambient }),
    })
}

/// Lists of names; `~` before the first word of one stands for all others, and an empty list for none.
fn capability_list(asked: Asked<'_>, option: &'static str) -> Result<Option<Capabilities>, TermsError> {
    let mut set: Option<Capabilities> = None;
    for got in asked.0.list(option) {
        let text = text(&got, option)?;
        let (list, inverted) = text.strip_prefix('~').map_or((text, false), |rest| (rest, true));
        let words = list.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        let named = match words.collect::<Vec<_>>().join(",").as_str() {
            "" | "none" => Capabilities::default(),
            list => match Capabilities::parse(list) {
                Ok((named, unknown)) if unknown.is_empty() => named,
                Ok((_, unknown)) => {
                    let cause = format!("{} is no capability", unknown.join(", "));
                    return Err(TermsError::new(&got, option, cause));
                }
                Err(cause) => return Err(TermsError::new(&got, option, cause)),
            },
        };
        let all = Capabilities::from_bits(u64::MAX);
        set = Some(match (set, inverted) {
            (None, false) => named,
            (None, true) => all.without(named),
            (Some(set), false) => set.with(named),
            (Some(set), true) => set.without(named),
        });
    }
    Ok(set)
}

fn calls(asked: Asked<'_>, level: CallFilter) -> Result<CallFilter, TermsError> {
    let permitted = permitted(asked)?;
    let (refused, unknown_refused) = listed_calls(asked)?;
    let flag = |option, of_level| asked.flag(option).unwrap_or(of_level);
    let native = asked.parsed("system-call-architectures", |word| match word {
        "native" => Ok(true),
        _ => Err("only `native` can be had: the numbers of another machine mean other calls"),
    })?;
    Ok(CallFilter {
        refused: level.refused.without(&permitted).with(&refused),
        unknown_refused: level.unknown_refused | unknown_refused,
        native_only: level.native_only | native.unwrap_or_default(),
        namespaces: namespaces(asked)?.unwrap_or(level.namespaces),
        families: families(asked)?.unwrap_or(level.families),
        realtime: flag("restrict-realtime", level.realtime),
        suid_sgid: flag("restrict-suid-sgid", level.suid_sgid),
        personality: flag("lock-personality", level.personality),
        write_execute: flag("memory-deny-write-execute", level.write_execute),
        terminal: level.terminal,
    })
}

fn permitted(asked: Asked<'_>) -> Result<CallSet, TermsError> {
    const OPTION: &str = "system-call-allow";
    asked.words(OPTION).try_fold(CallSet::default(), |set, got| {
        let named = CallSet::of_words([text(&got, OPTION)?]);
        Ok(set.with(&named.map_err(|cause| TermsError::new(&got, OPTION, cause))?))
    })
}

/// What `system-call-filter` refuses, in systemd's way: the first list decides whether it is one of what is allowed or
/// of what is refused; each later one adds to it, or takes away where it is of the other kind.
fn listed_calls(asked: Asked<'_>) -> Result<(CallSet, bool), TermsError> {
    const OPTION: &str = "system-call-filter";
    let mut first_refuses = None;
    let mut set = CallSet::default();
    for got in asked.0.list(OPTION) {
        let list = text(&got, OPTION)?;
        let (list, refuses) = list.strip_prefix('~').map_or((list, false), |rest| (rest, true));
        let of_words = CallSet::of_words(list.split_ascii_whitespace());
        let named = of_words.map_err(|cause| TermsError::new(&got, OPTION, cause))?;
        let needed = named.without(&CallSet::needed().others());
        if refuses && !needed.is_empty() {
            let names = needed.names().collect::<Vec<_>>().join(", ");
            let cause = format!("{names} cannot be refused: nothing could be started or ended");
            return Err(TermsError::new(&got, OPTION, cause));
        }
        let is_first_kind = *first_refuses.get_or_insert(refuses) == refuses;
        set = if is_first_kind { set.with(&named) } else { set.without(&named) };
    }
    if first_refuses != Some(false) {
        return Ok((set, false));
    }
    let default = CallSet::of_words(["@default"]).unwrap_or_default();
    Ok((set.with(&default).others(), true))
}

fn namespaces(asked: Asked<'_>) -> Result<Option<NamespaceKinds>, TermsError> {
    asked.parsed("restrict-namespaces", |text| {
        let (list, refused) = text.strip_prefix('~').map_or((text, false), |rest| (rest, true));
        match text {
            "yes" | "true" | "1" | "on" => return Ok(NamespaceKinds::ALL),
            "no" | "false" | "0" | "off" => return Ok(NamespaceKinds::default()),
            _ => {}
        }
        let mut named = 0;
        for word in list.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
            let kind = NamespaceKinds::named(word);
            let wanted = "`yes`, `no`, or kinds are wanted: cgroup ipc net mnt pid user uts time";
            named |= kind.ok_or_else(|| format!("{word} is no kind of namespace; {wanted}"))?.flags();
        }
        Ok::<_, String>(NamespaceKinds(if refused { named } else { NamespaceKinds::ALL.flags() & !named }))
    })
}

/// `Some(None)` where all are allowed by a word.
fn families(asked: Asked<'_>) -> Result<Option<Option<Families>>, TermsError> {
    asked.parsed("restrict-address-families", |text| {
        let (list, refused) = text.strip_prefix('~').map_or((text, false), |rest| (rest, true));
        match text {
            "none" => return Ok(Some(Families::default())),
            "any" => return Ok(None),
            _ => {}
        }
        let mut named = 0;
        for word in list.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
            let wanted = "names as AF_INET are wanted, or `none`, or `any`";
            let family = Families::named(word);
            named |= family.ok_or_else(|| format!("{word} is no address family; {wanted}"))?.0;
        }
        Ok::<_, String>(Some(Families(if refused { !named } else { named })))
    })
}

fn limits(asked: Asked<'_>, level: Limits, is_command: bool) -> Result<Limits, TermsError> {
    let limit = |option, least, bytes| {
        let parsed = asked.parsed(option, |text| self::limit(text, least, bytes))?;
        Ok::<_, TermsError>(parsed.map(Granted::by_root))
    };
    // What uWSGI reads itself, it reads itself.
    let of_command =
        |option, range| if is_command { asked.number(option, range) } else { Ok::<_, TermsError>(None) };
    let number = |number: Option<i64>| number.and_then(|n| u64::try_from(n).ok());
    let same = |value: Option<u64>| value.map(|value| Granted::by_root(Limit::of(value)));
    let mib = number(of_command("limit-as", LEAST_ADDRESS_SPACE_MIB..=1 << 40)?);
    let max_fd = number(of_command("max-fd", LEAST_DESCRIPTORS.cast_signed()..=1 << 30)?);
    let nice = match asked.number("nice", -20..=19)? {
        None => of_command("prio", -20..=19)?,
        nice => nice,
    };
    let oom = asked.number("oom-score-adjust", -1000..=1000)?;
    Ok(Limits {
        address_space: same(mib.map(|mib| mib << 20)).or(level.address_space),
        nproc: same(number(of_command("limit-nproc", 1..=1 << 30)?)).or(level.nproc),
        nofile: limit("limit-nofile", LEAST_DESCRIPTORS, false)?.or(same(max_fd)).or(level.nofile),
        core: limit("limit-core", 0, true)?.or(level.core),
        memlock: limit("limit-memlock", 0, true)?.or(level.memlock),
        fsize: limit("limit-fsize", 0, true)?.or(level.fsize),
        cpu: limit("limit-cpu", 1, false)?.or(level.cpu),
        nice: nice.and_then(|nice| i8::try_from(nice).ok()).map(Granted::by_root).or(level.nice),
        oom_score_adjust: oom
            .and_then(|score| i16::try_from(score).ok())
            .map(Granted::by_root)
            .or(level.oom_score_adjust),
        processors: if is_command { asked.parsed("cpu-affinity", Processors::parse)? } else { None },
        umask: if is_command { asked.parsed("umask", umask)? } else { None },
    })
}

/// `SOFT:HARD` or one for both; `infinity`; K, M, G and T for bytes.
fn limit(text: &str, least: u64, bytes: bool) -> Result<Limit, String> {
    let one = |text: &str| {
        let text = text.trim();
        if text == "infinity" {
            return Some(u64::MAX);
        }
        let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
        let unit = units
            .iter()
            .filter(|_| bytes)
            .find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, *shift)));
        let (digits, shift) = unit.unwrap_or((text, 0));
        digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|value| *value >= least)
    };
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    match (one(soft), one(hard)) {
        (Some(soft), Some(hard)) if soft <= hard => Ok(Limit { soft, hard }),
        _ => {
            let unit = if bytes { " (bytes, or with K, M, G, T)" } else { "" };
            Err(format!("a number of at least {least}{unit}, `infinity`, or SOFT:HARD is wanted"))
        }
    }
}

fn umask(text: &str) -> Result<u16, &'static str> {
    u16::from_str_radix(text, 8)
        .ok()
        .filter(|mask| *mask <= 0o777)
        .ok_or("up to three octal digits are wanted")
}

fn text<'v>(got: &Got<'v, &'v [u8]>, option: &'static str) -> Result<&'v str, TermsError> {
    let text = std::str::from_utf8(got.value.trim_ascii());
    text.map_err(|_| TermsError::new(got, option, "the value is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::config;
    use super::*;

    fn read(lines: &str) -> Result<Privileges, String> {
        let config = config(lines);
        let level = Asked(&config).parsed("sandbox", Level::parse).unwrap().unwrap_or_default();
        Privileges::read(Asked(&config), level).map_err(|error| error.to_string())
    }

    fn set(words: &str) -> CallSet {
        CallSet::of_words(words.split(' ')).unwrap()
    }

    #[test]
    fn a_file_that_says_nothing_asks_for_its_level() {
        assert_eq!(read("master = true\n").unwrap(), Privileges::default());
        assert_eq!(read("sandbox = strict\n").unwrap(), Privileges::level(Level::Strict));
    }

    #[test]
    fn a_filter_of_what_is_refused_adds_to_the_level_and_an_allowance_takes_from_it() {
        let level = Privileges::level(Level::Standard).calls.refused;
        let of = |lines: &str| read(&format!("sandbox = standard\n{lines}")).unwrap().calls.refused;
        assert_eq!(of("system-call-filter = ~chmod chown\n"), level.with(&set("chmod chown")));
        let debugged = of("system-call-allow = @debug io_uring_setup\nsystem-call-filter = ~kill\n");
        assert_eq!(debugged, level.without(&set("@debug io_uring_setup")).with(&set("kill")));
        let alone = read("system-call-filter = ~@clock\n").unwrap().calls;
        assert_eq!(alone, CallFilter { refused: set("@clock"), ..CallFilter::default() });
    }

    #[test]
    fn a_filter_of_what_is_allowed_refuses_all_else_and_later_lists_change_it() {
        let lines =
            "system-call-filter = @basic-io kill\nsystem-call-filter = ~kill\nsystem-call-filter = wait4\n";
        let calls = read(lines).unwrap().calls;
        assert!(calls.unknown_refused);
        for (name, wanted) in
            [("read", true), ("wait4", true), ("execve", true), ("kill", false), ("openat", false)]
        {
            assert_eq!(set(name).without(&calls.refused) == set(name), wanted, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_its_place() {
        for (line, wanted) in [
            ("system-call-filter = ~execve", "execve cannot be refused"),
            ("system-call-filter = ~@default", "exit_group, rt_sigreturn cannot be refused"),
            ("system-call-filter = raed", "raed is no system call"),
            ("system-call-allow = @bug", "@bug is no group"),
            ("system-call-architectures = x86", "only `native`"),
            ("restrict-namespaces = usr", "usr is no kind of namespace"),
            ("restrict-address-families = AF_SNA", "AF_SNA is no address family"),
            ("capability-bounding-set = cap_magic", "no capability"),
            ("landlock = perhaps", "`best-effort`"),
            ("keyring-mode = shared", "`private`"),
            ("limit-nofile = 8", "at least 16"),
            ("limit-core = 2M:1M", "SOFT:HARD"),
            ("limit-fsize = 99999999999T", "infinity"),
            ("nice = 30", "from -20 to 19"),
            ("oom-score-adjust = -1001", "from -1000 to 1000"),
            ("landlock = yes\nno-new-privileges = no", "need it"),
        ] {
            let error = read(&format!("{line}\n")).unwrap_err();
            assert!(error.contains("a.ini:") && error.contains(wanted), "{line}: {error}");
        }
    }

    #[test]
    fn what_uwsgi_reads_itself_is_read_for_a_command_alone() {
        let lines = "limit-as = 512\nlimit-nproc = 20\nmax-fd = 300\nprio = 5\numask = 027\ncpu-affinity = 0-1\n\
            cap = net_bind_service,kill\n";
        assert_eq!(read(lines).unwrap(), Privileges::default());
        let privileges = read(&format!("command = a\n{lines}")).unwrap();
        let shown = "as 536870912, nproc 20, nofile 300, nice 5, processors 0-1, umask 027";
        assert_eq!(privileges.limits.to_string(), shown);
        assert_eq!(privileges.ambient.to_string(), "kill,net_bind_service");
        assert_eq!(privileges.bounding.unwrap().of_root, privileges.ambient);
    }

    #[test]
    fn what_is_ambient_is_in_the_bounding_set_of_the_level() {
        let privileges = read("sandbox = standard\nambient-capabilities = CAP_NET_BIND_SERVICE\n").unwrap();
        assert_eq!(privileges.bounding.unwrap().of_others, privileges.ambient);
        let inverted = read("capability-bounding-set = ~sys_admin net_raw\n").unwrap().bounding.unwrap();
        assert!(!inverted.of_others.holds(21) && !inverted.of_root.holds(13) && inverted.of_root.holds(0));
        assert_eq!(read("capability-bounding-set = none\n").unwrap().bounding.unwrap().of_root.bits(), 0);
    }

    #[test]
    fn restrictions_are_read_in_systemds_words() {
        let calls = |lines: &str| read(lines).unwrap().calls;
        let some = calls("restrict-namespaces = ~user,mnt\nrestrict-address-families = AF_UNIX AF_INET\n");
        assert_eq!(some.namespaces.to_string(), "mnt,user");
        assert_eq!(some.families.unwrap().to_string(), "unix,inet");
        let others = calls("restrict-namespaces = net\nrestrict-address-families = ~AF_PACKET\n");
        assert_eq!(others.namespaces.flags(), NamespaceKinds::ALL.flags() & !0x4000_0000);
        assert_eq!(others.families.unwrap().to_string(), "all but packet");
        let flags = "restrict-realtime\nrestrict-suid-sgid = yes\nlock-personality = 1\n";
        let set = calls(&format!("{flags}memory-deny-write-execute = true\n"));
        assert!(set.realtime && set.suid_sgid && set.personality && set.write_execute);
        let loosened = calls("sandbox = strict\nrestrict-suid-sgid = no\nrestrict-address-families = any\n");
        assert!(!loosened.suid_sgid && loosened.families.is_none() && loosened.realtime);
    }

    #[test]
    fn limits_are_read_in_systemds_way() {
        let limits =
            read("limit-nofile = 1024:4096\nlimit-core = infinity\nlimit-memlock = 64K\nlimit-cpu = 60\n");
        let shown = "nofile 1024:4096, core infinity, memlock 65536, cpu 60";
        assert_eq!(limits.unwrap().limits.to_string(), shown);
    }
}
