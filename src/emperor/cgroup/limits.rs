//! Terms as files of a control group and what is written to them, for both versions. Pure, but for the numbers of
//! devices that are named by their files.

use std::fmt::Write;

use super::Controllers;
use crate::vassal::terms::cgroup::{Device, Rates, ResourceTerms, Weight};

/// How large the machine is, for limits that are shares of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    pub(super) memory_bytes: u64,
    pub(super) tasks: u64,
}

/// One file, what it is given, and whether that is anything but what a new group has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Setting {
    pub(super) controller: Controllers,
    /// The names it has had; the first that is there is written.
    pub(super) files: &'static [&'static str],
    pub(super) value: String,
    pub(super) is_default: bool,
    /// How a person calls it.
    pub(super) option: &'static str,
}

/// Of version 2.
pub(super) fn unified(terms: &ResourceTerms, machine: Machine, devices: &[(String, Rates)]) -> Vec<Setting> {
    let amount = |number: Option<u64>| number.map_or("max".into(), |number| number.to_string());
    let memory = |option, files, limit: Option<u64>| Setting {
        controller: Controllers::MEMORY,
        files,
        value: amount(limit),
        is_default: limit.is_none(),
        option,
    };
    let bytes = machine.memory_bytes;
    let tasks = terms.tasks_max.on(machine.tasks);
    let mut all = vec![
        memory("memory-high", &["memory.high"], terms.memory_high.on(bytes)),
        memory("memory-max", &["memory.max"], terms.memory_max.on(bytes)),
        memory("memory-swap-max", &["memory.swap.max"], terms.memory_swap_max.on(bytes)),
        Setting {
            controller: Controllers::PIDS,
            files: &["pids.max"],
            value: amount(tasks.map(|tasks| tasks.max(1))),
            is_default: tasks.is_none(),
            option: "tasks-max",
        },
        Setting {
            controller: Controllers::CPU,
            files: &["cpu.max"],
            value: terms.cpu_max.map_or("max".into(), |max| format!("{} {}", max.quota(), max.period())),
            is_default: terms.cpu_max.is_none(),
            option: "cpu-max",
        },
        weight(Controllers::CPU, &["cpu.weight"], "cpu-weight", terms.cpu_weight, u64::from),
        weight(Controllers::IO, &["io.weight", "io.bfq.weight"], "io-weight", terms.io_weight, u64::from),
    ];
    all.extend(devices.iter().map(|(device, rates)| Setting {
        controller: Controllers::IO,
        files: &["io.max"],
        value: rate_line(device, *rates),
        is_default: *rates == Rates::default(),
        option: "io-max",
    }));
    all
}

/// Of version 1.
pub(super) fn legacy(terms: &ResourceTerms, machine: Machine, devices: &[(String, Rates)]) -> Vec<Setting> {
    let setting = |controller, files, option, value: Option<String>, default: &str| Setting {
        controller,
        files,
        is_default: value.is_none(),
        value: value.unwrap_or_else(|| default.into()),
        option,
    };
    let bytes = machine.memory_bytes;
    let number = |number: u64| number.to_string();
    let memory = terms.memory_max.on(bytes);
    // Version 1 knows no limit of swap alone, and none of both without one of memory.
    let both = memory.zip(terms.memory_swap_max.on(bytes)).map(|(memory, swap)| memory.saturating_add(swap));
    let (memory_files, cpu) = (Controllers::MEMORY, Controllers::CPU);
    let (quota, period) = terms.cpu_max.map_or((None, None), |max| (Some(max.quota()), Some(max.period())));
    let tasks = terms.tasks_max.on(machine.tasks).map(|tasks| tasks.max(1));
    let shares = |weight: u16| (u64::from(weight) * 1024 / 100).clamp(2, 262_144);
    // The scale of systemd: 100 there is 500 here.
    let blkio = |weight: u16| (u64::from(weight) * 5).clamp(10, 1000);
    let soft = terms.memory_high.on(bytes);
    let mut all = vec![
        setting(memory_files, &["memory.soft_limit_in_bytes"], "memory-high", soft.map(number), "-1"),
        setting(memory_files, &["memory.limit_in_bytes"], "memory-max", memory.map(number), "-1"),
        setting(memory_files, &["memory.memsw.limit_in_bytes"], "memory-swap-max", both.map(number), "-1"),
        setting(Controllers::PIDS, &["pids.max"], "tasks-max", tasks.map(number), "max"),
        setting(cpu, &["cpu.cfs_period_us"], "cpu-max", period.map(number), "100000"),
        setting(cpu, &["cpu.cfs_quota_us"], "cpu-max", quota.map(number), "-1"),
        weight(cpu, &["cpu.shares"], "cpu-weight", terms.cpu_weight, shares),
        weight(Controllers::IO, &["blkio.weight", "blkio.bfq.weight"], "io-weight", terms.io_weight, blkio),
    ];
    for (device, rates) in devices {
        let mut rate = |file, rate: Option<u64>| {
            let value = rate.map(|rate| format!("{device} {rate}"));
            all.push(setting(Controllers::IO, file, "io-max", value, &format!("{device} 0")));
        };
        rate(&["blkio.throttle.read_bps_device"], rates.rbps);
        rate(&["blkio.throttle.write_bps_device"], rates.wbps);
        rate(&["blkio.throttle.read_iops_device"], rates.riops);
        rate(&["blkio.throttle.write_iops_device"], rates.wiops);
    }
    all
}

fn weight(
    controller: Controllers,
    files: &'static [&'static str],
    option: &'static str,
    weight: Option<Weight>,
    scale: impl Fn(u16) -> u64,
) -> Setting {
    let weight = weight.unwrap_or_default();
    let value = scale(weight.number()).to_string();
    Setting { controller, files, value, is_default: weight == Weight::default(), option }
}

fn rate_line(device: &str, rates: Rates) -> String {
    let mut line = device.to_owned();
    for (name, rate) in
        [("rbps", rates.rbps), ("wbps", rates.wbps), ("riops", rates.riops), ("wiops", rates.wiops)]
    {
        // Writing into memory cannot fail.
        let _ = match rate {
            Some(rate) => write!(line, " {name}={rate}"),
            None => write!(line, " {name}=max"),
        };
    }
    line
}

/// The rates by numbers of devices: two lines about the same device, by its file and by its numbers, are one.
///
/// # Errors
/// The file that is no device.
pub(super) fn devices(
    terms: &ResourceTerms,
    number: impl Fn(&str) -> std::io::Result<(u32, u32)>,
) -> Result<Vec<(String, Rates)>, (String, std::io::Error)> {
    let mut found: Vec<(String, Rates)> = Vec::new();
    for line in terms.io_max.lines() {
        let (major, minor) = match &line.device {
            Device::Numbers(major, minor) => (*major, *minor),
            Device::File(path) => number(path).map_err(|error| (path.clone(), error))?,
        };
        let name = format!("{major}:{minor}");
        match found.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rates)) => *rates = rates.smaller(line.rates),
            None => found.push((name, line.rates)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Limits, Loader, Machine as World, Mode};
    use crate::vassal::terms::{Asked, Level};

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.ini");
        std::fs::write(&file, format!("[uwsgi]\n{text}\n")).unwrap();
        let world = World::new();
        let arguments = ["--ini".into(), file.into_os_string()];
        Loader::new(&world, Limits::default()).load(&arguments, &[], Mode::Vassal).unwrap()
    }

    fn terms(text: &str) -> ResourceTerms {
        ResourceTerms::read(Asked(&config(text)), Level::None).unwrap()
    }

    fn fault(text: &str) -> String {
        ResourceTerms::read(Asked(&config(text)), Level::None).unwrap_err().to_string()
    }

    const MACHINE: Machine = Machine { memory_bytes: 1000 << 20, tasks: 10_000 };

    fn written(settings: &[Setting]) -> String {
        let changed = settings.iter().filter(|setting| !setting.is_default);
        changed
            .map(|setting| format!("{}={}", setting.files[0], setting.value))
            .collect::<Vec<_>>()
            .join("\n")
    }

    const EVERYTHING: &str = "memory-max = 64M\nmemory-high = 5%%\nmemory-swap-max = 0\ntasks-max = 12.5 percent\n\
                              cpu-max = 50%%\ncpu-weight = 200\nio-weight = 50\n\
                              io-max = 8:0 rbps=1M riops=10\nio-max = 8:0 rbps=2M wbps=3M";

    #[test]
    fn terms_become_the_files_of_version_2() {
        let terms = terms(EVERYTHING);
        let devices = devices(&terms, |_| unreachable!()).unwrap();
        assert_eq!(
            written(&unified(&terms, MACHINE, &devices)),
            "memory.high=52428800\nmemory.max=67108864\nmemory.swap.max=0\npids.max=1250\n\
             cpu.max=50000 100000\ncpu.weight=200\nio.weight=50\n\
             io.max=8:0 rbps=1048576 wbps=3145728 riops=10 wiops=max"
        );
    }

    #[test]
    fn terms_become_the_files_of_version_1() {
        let terms = terms(EVERYTHING);
        let devices = devices(&terms, |_| unreachable!()).unwrap();
        assert_eq!(
            written(&legacy(&terms, MACHINE, &devices)),
            "memory.soft_limit_in_bytes=52428800\nmemory.limit_in_bytes=67108864\n\
             memory.memsw.limit_in_bytes=67108864\npids.max=1250\ncpu.cfs_period_us=100000\n\
             cpu.cfs_quota_us=50000\ncpu.shares=2048\nblkio.weight=250\n\
             blkio.throttle.read_bps_device=8:0 1048576\nblkio.throttle.write_bps_device=8:0 3145728\n\
             blkio.throttle.read_iops_device=8:0 10"
        );
    }

    #[test]
    fn what_is_not_asked_for_is_what_a_new_group_has() {
        assert_eq!(written(&unified(&terms(""), MACHINE, &[])), "");
        assert_eq!(written(&legacy(&terms(""), MACHINE, &[])), "");
        assert!(!terms("").wants_group());
        assert!(!terms("cpu-weight = 100").wants_group(), "that is everybody's");
        for line in EVERYTHING.lines() {
            assert!(terms(line).wants_group(), "{line}");
        }
    }

    #[test]
    fn values_that_mean_nothing_are_refused_with_their_place() {
        for (line, says) in [
            ("memory-max = 64", "64M"),
            ("memory-max = 64Q", "64M"),
            ("memory-max = -1", "64M"),
            ("memory-max = 101%%", "100%"),
            ("memory-max = 99999999999999999999T", "64M"),
            ("tasks-max = 0", "from 1"),
            ("tasks-max = 5000000", "from 1"),
            ("cpu-max = 0%%", "50%"),
            ("cpu-max = 1 2 3", "50%"),
            ("cpu-max = 50", "50%"),
            ("cpu-max = 500 100000", "50%"),
            ("cpu-weight = 0", "1 to 10000"),
            ("cpu-weight = 10001", "1 to 10000"),
            ("io-max = /etc/passwd rbps=1M", "/dev"),
            ("io-max = /dev/../etc/passwd rbps=1M", "/dev"),
            ("io-max = /dev/shm/mine rbps=1M", "/dev"),
            ("io-max = /dev/disk/../shm/mine rbps=1M", "/dev"),
            ("io-max = 8:0", "rbps"),
            ("io-max = 8:0 speed=1", "rbps"),
        ] {
            let fault = fault(line);
            let option = line.split(' ').next().unwrap();
            assert!(
                fault.contains("a.ini") && fault.contains(option) && fault.contains(says),
                "{line}: {fault}"
            );
        }
        let many: Vec<_> = (0..33).map(|n| format!("io-max = 8:{n} rbps=1M")).collect();
        assert!(fault(&many.join("\n")).contains("32 lines"), "bounded");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("64M", 64 << 20), ("1.5G", 3 << 29), ("2GiB", 2 << 30), ("1048576", 1 << 20), ("1t", 1 << 40)]
        {
            let terms = terms(&format!("memory-max = {text}"));
            assert_eq!(terms.memory_max.on(u64::MAX), Some(bytes), "{text}");
        }
        assert_eq!(terms("memory-max = 64M").memory_max.to_string(), "64M");
        assert_eq!(terms("memory-max = 12.5%%").memory_max.to_string(), "12.50%");
    }

    #[test]
    fn a_tenants_wish_tightens_the_policy_and_never_loosens_it() {
        let policy = terms(
            "memory-max = 100M\ntasks-max = 50\ncpu-max = 100%%\ncpu-weight = 50\nio-max = 8:0 rbps=1M",
        );
        let loose = terms(
            "memory-max = infinity\ntasks-max = 4000\ncpu-max = 400%%\ncpu-weight = 9000\nio-max = 8:0 rbps=9M",
        );
        assert_eq!(loose.joined(&policy), policy);
        let strict = terms(
            "memory-max = 10M\ntasks-max = 5\ncpu-max = 5000 10000\ncpu-weight = 5\nio-max = 8:0 rbps=1K",
        );
        assert_eq!(strict.clone().joined(&policy), strict);
        assert_eq!(policy.clone().joined(&strict), strict, "whichever comes first");
        assert_eq!(ResourceTerms::default().joined(&policy), policy);
        let heavy = terms("cpu-weight = 9000").joined(&ResourceTerms::default().above_tenants());
        assert_eq!(
            heavy.cpu_weight,
            Some(Weight::default()),
            "no weight is bought without the policy's word"
        );
        let share = terms("memory-max = 10%%").joined(&policy);
        assert_eq!(share.memory_max.on(MACHINE.memory_bytes), Some(100 << 20));
        assert_eq!(share.memory_max.on(100 << 20), Some(10 << 20));
    }

    #[test]
    fn a_sandbox_limits_tasks_and_its_file_may_say_otherwise() {
        for level in [Level::Standard, Level::Strict] {
            let read = |text| ResourceTerms::read(Asked(&config(text)), level).unwrap();
            assert_eq!(read("").tasks_max.on(u64::MAX), Some(512));
            assert!(read("").wants_group());
            assert_eq!(read("tasks-max = infinity").tasks_max.on(u64::MAX), None);
            assert!(read("tasks-max = infinity").wants_group());
        }
        assert_eq!(ResourceTerms::level(Level::None), ResourceTerms::default());
    }

    #[test]
    fn terms_that_a_tenant_sends_are_checked_again() {
        let terms = terms(EVERYTHING);
        let text = serde_json::to_string(&terms).unwrap();
        assert_eq!(serde_json::from_str::<ResourceTerms>(&text).unwrap(), terms);
        for forged in [
            r#"{"cpu-weight": 0}"#,
            r#"{"cpu-weight": 20000}"#,
            r#"{"cpu-max": [1, 100000]}"#,
            r#"{"cpu-max": [100000, 0]}"#,
            r#"{"memory-max": {"amount": 1, "share": 10001}}"#,
            r#"{"io-max": [{"device": "/etc/shadow", "rates": {"rbps": 1}}]}"#,
            r#"{"io-max": [{"device": "8:0\n9:0", "rates": {"rbps": 1}}]}"#,
            r#"{"unknown": 1}"#,
        ] {
            assert!(serde_json::from_str::<ResourceTerms>(forged).is_err(), "{forged}");
        }
    }
}
