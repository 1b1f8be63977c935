//! A vassal's share of the machine: what its file asks for, what the policy allows, as plain data.
//!
//! Who makes the limits true is the emperor, in a control group that the vassal starts in. Everything here is a
//! limit, so that two wishes become one by the smaller of each. A share of the machine (`10%`) and an amount are kept
//! side by side until somebody knows how large the machine is: the smaller counts.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Asked, Level, TermsError};
use crate::config::Got;
use crate::vassal::plan::Text;

/// What a vassal may take of the machine. The default is: no group, no limit.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ResourceTerms {
    /// A group of its own also where nothing is limited: usage is told, and nothing survives its end.
    pub group: bool,
    /// Bytes at which the kernel ends a process of the group.
    pub memory_max: Limit,
    /// Bytes from which on the group is slowed down and its memory reclaimed.
    pub memory_high: Limit,
    /// Bytes of swap.
    pub memory_swap_max: Limit,
    /// Processes and threads.
    pub tasks_max: Limit,
    /// Processor time, whatever the others need.
    pub cpu_max: Option<CpuMax>,
    /// Share of the processors where they are short; 100 is everybody's.
    pub cpu_weight: Option<Weight>,
    /// Share of the disks where they are short; 100 is everybody's.
    pub io_weight: Option<Weight>,
    /// Rates by device.
    pub io_max: IoLimits,
}

/// Processes and threads of a vassal in a sandbox that says nothing else.
const SANDBOX_TASKS: u64 = 512;
/// A smaller limit of memory is a number that lacks its unit.
const LEAST_MEMORY: u64 = 1 << 20;
/// More processes than the kernel can have.
const MOST_TASKS: u64 = 1 << 22;

/// The options of one set, in the order of [`ResourceTerms::of`].
struct Names {
    memory_max: &'static str,
    memory_high: &'static str,
    memory_swap_max: Option<&'static str>,
    tasks_max: &'static str,
    cpu_max: &'static str,
    cpu_weight: &'static str,
    io_weight: &'static str,
    io_max: Option<&'static str>,
}

/// Of a vassal's file.
const OWN: Names = Names {
    memory_max: "memory-max",
    memory_high: "memory-high",
    memory_swap_max: Some("memory-swap-max"),
    tasks_max: "tasks-max",
    cpu_max: "cpu-max",
    cpu_weight: "cpu-weight",
    io_weight: "io-weight",
    io_max: Some("io-max"),
};

/// Of the emperor's configuration, for all vassals.
const POLICY: Names = Names {
    memory_max: "vassal-memory-max",
    memory_high: "vassal-memory-high",
    memory_swap_max: None,
    tasks_max: "vassal-tasks-max",
    cpu_max: "vassal-cpu-max",
    cpu_weight: "vassal-cpu-weight",
    io_weight: "vassal-io-weight",
    io_max: None,
};

impl ResourceTerms {
    /// What a sandbox of this level means.
    #[must_use]
    pub fn level(level: Level) -> Self {
        match level {
            Level::None => Self::default(),
            Level::Standard | Level::Strict => {
                Self { group: true, tasks_max: Limit::of(SANDBOX_TASKS), ..Self::default() }
            }
        }
    }

    /// What a vassal's file asks for, over its own `sandbox`.
    ///
    /// # Errors
    /// [`TermsError`], with the place of the value.
    pub fn read(asked: Asked<'_>, level: Level) -> Result<Self, TermsError> {
        Self::of(asked, &OWN, Self::level(level))
    }

    /// What the emperor's configuration says of all vassals.
    ///
    /// # Errors
    /// [`TermsError`], with the place of the value.
    pub fn policy(asked: Asked<'_>) -> Result<Self, TermsError> {
        let terms = Self::of(asked, &POLICY, Self::default())?;
        Ok(Self { group: asked.flag("vassal-cgroup").unwrap_or(false), ..terms })
    }

    fn of(asked: Asked<'_>, names: &Names, base: Self) -> Result<Self, TermsError> {
        let limit = |name, parse: fn(&str) -> Result<Limit, &'static str>, base| {
            Ok::<_, TermsError>(asked.parsed(name, parse)?.unwrap_or(base))
        };
        let terms = Self {
            memory_max: limit(names.memory_max, Limit::memory, base.memory_max)?,
            memory_high: limit(names.memory_high, Limit::memory, base.memory_high)?,
            memory_swap_max: match names.memory_swap_max {
                Some(name) => limit(name, Limit::bytes, base.memory_swap_max)?,
                None => base.memory_swap_max,
            },
            tasks_max: limit(names.tasks_max, Limit::tasks, base.tasks_max)?,
            cpu_max: asked.parsed(names.cpu_max, CpuMax::parse)?.unwrap_or(base.cpu_max),
            cpu_weight: asked.parsed(names.cpu_weight, Weight::parse)?.or(base.cpu_weight),
            io_weight: asked.parsed(names.io_weight, Weight::parse)?.or(base.io_weight),
            io_max: match names.io_max {
                Some(name) => IoLimits::read(asked, name)?,
                None => IoLimits::default(),
            },
            group: base.group,
        };
        Ok(terms)
    }

    /// The stricter of two, limit by limit. Rates of the same device are both kept, and the smaller counts where they
    /// are written.
    #[must_use]
    pub fn joined(self, other: &Self) -> Self {
        let weight = |a: Option<Weight>, b: Option<Weight>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        Self {
            group: self.group || other.group,
            memory_max: self.memory_max.smaller(other.memory_max),
            memory_high: self.memory_high.smaller(other.memory_high),
            memory_swap_max: self.memory_swap_max.smaller(other.memory_swap_max),
            tasks_max: self.tasks_max.smaller(other.tasks_max),
            cpu_max: match (self.cpu_max, other.cpu_max) {
                (Some(a), Some(b)) => Some(a.smaller(b)),
                (one, other) => one.or(other),
            },
            cpu_weight: weight(self.cpu_weight, other.cpu_weight),
            io_weight: weight(self.io_weight, other.io_weight),
            io_max: self.io_max.joined(&other.io_max),
        }
    }

    /// A policy as it stands above tenants: where it says nothing of a weight, that of everybody is the ceiling. A
    /// weight is a share that others lose.
    #[must_use]
    pub fn above_tenants(self) -> Self {
        let everybodys = Some(Weight::default());
        Self { cpu_weight: self.cpu_weight.or(everybodys), io_weight: self.io_weight.or(everybodys), ..self }
    }

    /// Whether any of it takes a control group.
    #[must_use]
    pub fn wants_group(&self) -> bool {
        let own_weight = |weight: Option<Weight>| weight.is_some_and(|weight| weight != Weight::default());
        self.group
            || [self.memory_max, self.memory_high, self.memory_swap_max, self.tasks_max]
                .iter()
                .any(|limit| *limit != Limit::default())
            || self.cpu_max.is_some()
            || own_weight(self.cpu_weight)
            || own_weight(self.io_weight)
            || !self.io_max.0.is_empty()
    }
}

/// A limit as an amount, a share of what the machine has, both or none.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    amount: Option<u64>,
    share: Option<Share>,
}

/// Hundredths of a percent, up to the whole.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "u16")]
pub struct Share(u16);

const WHOLE: u16 = 10_000;

impl TryFrom<u16> for Share {
    type Error = &'static str;
    fn try_from(parts: u16) -> Result<Self, Self::Error> {
        if parts <= WHOLE { Ok(Self(parts)) } else { Err("a share is 100 % at most") }
    }
}

impl Limit {
    /// This amount.
    #[must_use]
    pub fn of(amount: u64) -> Self {
        Self { amount: Some(amount), share: None }
    }

    /// The amount on a machine that has so much; `None` for no limit.
    #[must_use]
    pub fn on(self, whole: u64) -> Option<u64> {
        let part = |share: Share| u128::from(whole) * u128::from(share.0) / u128::from(WHOLE);
        let of_share = self.share.map(|share| u64::try_from(part(share)).unwrap_or(u64::MAX));
        [self.amount, of_share].into_iter().flatten().min()
    }

    fn smaller(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| [a, b].into_iter().flatten().min();
        let share = [self.share, other.share].into_iter().flatten().min();
        Self { amount: least(self.amount, other.amount), share }
    }

    fn share(text: &str) -> Option<Result<Self, &'static str>> {
        const WANTED: &str = "a share is wanted, from 0% to 100%";
        let number = percent(text)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let parts = (part.len() <= 2 && digits(whole) && (part.is_empty() || digits(part)))
            .then(|| format!("{whole}{part:0<2}").parse::<u16>().ok())
            .flatten();
        let share = parts.and_then(|parts| Share::try_from(parts).ok());
        Some(share.map(|share| Self { amount: None, share: Some(share) }).ok_or(WANTED))
    }

    fn bytes(text: &str) -> Result<Self, &'static str> {
        if is_none(text) {
            return Ok(Self::default());
        }
        Self::share(text).unwrap_or_else(|| size(text).map(Self::of))
    }

    fn memory(text: &str) -> Result<Self, &'static str> {
        let limit = Self::bytes(text)?;
        if limit.amount.is_some_and(|bytes| bytes < LEAST_MEMORY) {
            return Err(
                "less than 1M: a number without a unit is bytes; write it like 64M, 2G, 10% or `infinity`",
            );
        }
        Ok(limit)
    }

    fn tasks(text: &str) -> Result<Self, &'static str> {
        if is_none(text) {
            return Ok(Self::default());
        }
        if let Some(share) = Self::share(text) {
            return share;
        }
        let number = text.parse().ok().filter(|number| (1..=MOST_TASKS).contains(number));
        number.map(Self::of).ok_or(
            "a number from 1 to 4194304, a share like `10%` or `infinity` is wanted; in a file `%%` is a percent sign, \
             or write `10 percent`",
        )
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
        let share = |f: &mut fmt::Formatter<'_>, Share(parts): Share| match parts % 100 {
            0 => write!(f, "{}%", parts / 100),
            part => write!(f, "{}.{part:02}%", parts / 100),
        };
        match (self.amount, self.share) {
            (None, None) => f.write_str("infinity"),
            (Some(amount), parts) => {
                match units.iter().find(|(unit, _)| amount > 0 && amount % unit == 0) {
                    Some((unit, letter)) => write!(f, "{}{letter}", amount / unit)?,
                    None => write!(f, "{amount}")?,
                }
                parts.map_or(Ok(()), |parts| f.write_str(" or ").and_then(|()| share(f, parts)))
            }
            (None, Some(parts)) => share(f, parts),
        }
    }
}

/// Processor time: so many microseconds in each period.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "(u64, u64)", into = "(u64, u64)")]
pub struct CpuMax {
    quota: u64,
    period: u64,
}

/// The kernel's own period, microseconds.
const PERIOD: u64 = 100_000;
/// The kernel takes no shorter time, microseconds. Source: cgroup-v2, `cpu.max`; `min_cfs_quota_period`.
const LEAST_TIME: u64 = 1_000;
/// Nor a longer period, nor more of it than there can be processors.
const LONGEST_PERIOD: u64 = 1_000_000;
const MOST_PROCESSORS: u64 = 8_192;

impl TryFrom<(u64, u64)> for CpuMax {
    type Error = &'static str;
    fn try_from((quota, period): (u64, u64)) -> Result<Self, Self::Error> {
        let ok = (LEAST_TIME..=LONGEST_PERIOD).contains(&period)
            && (LEAST_TIME..=period * MOST_PROCESSORS).contains(&quota);
        ok.then_some(Self { quota, period }).ok_or(
            "microseconds are wanted: a quota of at least 1000 in a period from 1000 to 1000000, or a share like 50%",
        )
    }
}

impl From<CpuMax> for (u64, u64) {
    fn from(max: CpuMax) -> Self {
        (max.quota, max.period)
    }
}

impl CpuMax {
    /// Microseconds of processor time in each period.
    #[must_use]
    pub fn quota(self) -> u64 {
        self.quota
    }

    /// The period, microseconds.
    #[must_use]
    pub fn period(self) -> u64 {
        self.period
    }

    fn parse(text: &str) -> Result<Option<Self>, &'static str> {
        const WANTED: &str = "a share of one processor like `50%`, `QUOTA PERIOD` in microseconds or `infinity` is \
                              wanted; in a file `%%` is a percent sign, or write `50 percent`";
        if is_none(text) {
            return Ok(None);
        }
        if let Some(percent) = percent(text) {
            let percent: u64 = percent.parse().map_err(|_| WANTED)?;
            return Self::try_from((percent.saturating_mul(PERIOD / 100), PERIOD)).map(Some);
        }
        let mut words = text.split_whitespace();
        let (quota, period) = (words.next().unwrap_or_default(), words.next());
        if words.next().is_some() {
            return Err(WANTED);
        }
        let number = |word: &str| word.parse().map_err(|_| WANTED);
        let period = period.map_or(Ok(PERIOD), number)?;
        if is_none(quota) { Ok(None) } else { Self::try_from((number(quota)?, period)).map(Some) }
    }

    /// The smaller share; of equal ones the shorter period, which lets nobody run ahead for as long.
    fn smaller(self, other: Self) -> Self {
        let share = |a: Self, b: Self| u128::from(a.quota) * u128::from(b.period);
        match share(self, other).cmp(&share(other, self)) {
            std::cmp::Ordering::Less => self,
            std::cmp::Ordering::Greater => other,
            std::cmp::Ordering::Equal => Self { period: self.period, ..self }.shorter(other),
        }
    }

    fn shorter(self, other: Self) -> Self {
        if other.period < self.period { other } else { self }
    }
}

/// A share in proportion to the others', from 1 to 10000.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "u16")]
pub struct Weight(u16);

impl Default for Weight {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<u16> for Weight {
    type Error = &'static str;
    fn try_from(weight: u16) -> Result<Self, Self::Error> {
        let ok = (1..=10_000).contains(&weight);
        ok.then_some(Self(weight)).ok_or("a weight from 1 to 10000 is wanted; 100 is everybody's")
    }
}

impl Weight {
    /// The number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        Self::try_from(text.parse().unwrap_or(0))
    }
}

/// Rates of several devices.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Vec<IoMax>", into = "Vec<IoMax>")]
pub struct IoLimits(Vec<IoMax>);

/// So many lines of `io-max` there may be.
const MOST_DEVICES: usize = 32;

impl TryFrom<Vec<IoMax>> for IoLimits {
    type Error = &'static str;
    fn try_from(limits: Vec<IoMax>) -> Result<Self, Self::Error> {
        if limits.len() <= MOST_DEVICES { Ok(Self(limits)) } else { Err("32 lines of io-max at most") }
    }
}

impl From<IoLimits> for Vec<IoMax> {
    fn from(limits: IoLimits) -> Self {
        limits.0
    }
}

impl IoLimits {
    /// Each line of them.
    #[must_use]
    pub fn lines(&self) -> &[IoMax] {
        &self.0
    }

    fn read(asked: Asked<'_>, option: &'static str) -> Result<Self, TermsError> {
        let (mut limits, mut last) = (Vec::new(), None);
        for got in asked.0.list(option) {
            let text = std::str::from_utf8(got.value).map_err(|_| "the value is not UTF-8");
            limits.push(text.and_then(IoMax::parse).map_err(|cause| TermsError::new(&got, option, cause))?);
            last = Some(got);
        }
        match (Self::try_from(limits), last) {
            (Err(cause), Some(got)) => Err(TermsError::new(&got, option, cause)),
            (limits, _) => Ok(limits.unwrap_or_default()),
        }
    }

    fn joined(mut self, other: &Self) -> Self {
        for line in &other.0 {
            match self.0.iter_mut().find(|own| own.device == line.device) {
                Some(own) => own.rates = own.rates.smaller(line.rates),
                None => self.0.push(line.clone()),
            }
        }
        self
    }
}

/// Rates of one block device.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IoMax {
    /// Which.
    pub device: Device,
    /// What it does for the vassal.
    pub rates: Rates,
}

/// Bytes and operations a second.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Bytes read.
    pub rbps: Option<u64>,
    /// Bytes written.
    pub wbps: Option<u64>,
    /// Reads.
    pub riops: Option<u64>,
    /// Writes.
    pub wiops: Option<u64>,
}

impl Rates {
    /// The smaller of each.
    #[must_use]
    pub fn smaller(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| [a, b].into_iter().flatten().min();
        Self {
            rbps: least(self.rbps, other.rbps),
            wbps: least(self.wbps, other.wbps),
            riops: least(self.riops, other.riops),
            wiops: least(self.wiops, other.wiops),
        }
    }
}

/// A block device: its numbers, or a file of `/dev` that only root can have put there.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// Major and minor.
    Numbers(u32, u32),
    /// Its file.
    File(String),
}

impl TryFrom<String> for Device {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let numbers = text.split_once(':').and_then(|(major, minor)| {
            let number = |text: &str| if digits(text) { text.parse().ok() } else { None };
            Some((number(major)?, number(minor)?))
        });
        if let Some((major, minor)) = numbers {
            return Ok(Self::Numbers(major, minor));
        }
        // Root looks at it. Below /dev there are places that everybody writes to, as /dev/shm.
        let below = text.strip_prefix("/dev/").filter(|_| text.len() <= 255 && !text.contains('\0'));
        let is_file = below.is_some_and(|below| {
            let mut parts = below.split('/');
            let fine = parts.clone().all(|part| !part.is_empty() && part != "." && part != "..");
            fine && (parts.clone().count() == 1 || matches!(parts.next(), Some("disk" | "mapper" | "block")))
        });
        if is_file {
            Ok(Self::File(text))
        } else {
            Err("a device is MAJOR:MINOR, /dev/NAME or /dev/disk/…")
        }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers(major, minor) => write!(f, "{major}:{minor}"),
            Self::File(path) => f.write_str(path),
        }
    }
}

impl IoMax {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const WANTED: &str =
            "`DEVICE rbps=10M wbps=10M riops=100 wiops=100` is wanted, or some of these rates";
        let mut words = text.split_whitespace();
        let device = Device::try_from(words.next().unwrap_or_default().to_owned())?;
        let mut rates = Rates::default();
        for word in words {
            let (name, value) = word.split_once('=').ok_or(WANTED)?;
            let value = if is_none(value) { None } else { Some(size(value)?).filter(|rate| *rate > 0) };
            let rate = match name {
                "rbps" => &mut rates.rbps,
                "wbps" => &mut rates.wbps,
                "riops" => &mut rates.riops,
                "wiops" => &mut rates.wiops,
                _ => return Err(WANTED),
            };
            *rate = value;
        }
        if rates == Rates::default() { Err(WANTED) } else { Ok(Self { device, rates }) }
    }
}

fn is_none(text: &str) -> bool {
    text == "infinity" || text == "max"
}

/// The number of a share. The word is for files, where a percent sign must be written twice.
fn percent(text: &str) -> Option<&str> {
    text.strip_suffix('%').or_else(|| text.strip_suffix("percent")).map(str::trim_end)
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `64M`, `1.5G`, `4096`: bytes, units of 1024.
fn size(text: &str) -> Result<u64, &'static str> {
    const WANTED: &str = "a size like 64M, 1.5G, `10%` or `infinity` is wanted; in a file `%%` is a percent sign, or \
                          write `10 percent`";
    let text = text.strip_suffix(['B', 'b']).unwrap_or(text);
    let text = text.strip_suffix(['i', 'I']).unwrap_or(text);
    let unit = text.bytes().next_back().and_then(|letter| {
        let power = b"KMGTPE".iter().position(|unit| *unit == letter.to_ascii_uppercase())?;
        u32::try_from(power + 1).ok()
    });
    let number = if unit.is_some() { &text[..text.len() - 1] } else { text }.trim_end();
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    if !digits(whole) || !digits(part) || part.len() > 6 || (unit.is_none() && number.contains('.')) {
        return Err(WANTED);
    }
    let unit = 1_u128 << (10 * unit.unwrap_or(0));
    let whole: u128 = whole.parse().map_err(|_| WANTED)?;
    let part: u128 = format!("{part:0<6}").parse().map_err(|_| WANTED)?;
    let bytes = whole.checked_mul(unit).ok_or(WANTED)? + part * unit / 1_000_000;
    u64::try_from(bytes).ok().filter(|bytes| *bytes <= 1 << 60).ok_or(WANTED)
}

/// uWSGI's own `cgroup`, `cgroup-opt` and `cgroup-dir-mode`, for a program that is not uWSGI: groups that the
/// administrator names.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamedGroups {
    /// The directories, in their order.
    pub directories: Vec<Text>,
    /// Mode of those that are made, and of those that are there.
    pub mode: u32,
    /// Files and what is written to them, in every directory that has them.
    pub options: Vec<(Text, Text)>,
}

/// `cgroup-dir-mode` where nothing is said.
const DIRECTORY_MODE: u32 = 0o700;

impl NamedGroups {
    /// What a file says.
    ///
    /// # Errors
    /// [`TermsError`], with the place of the value.
    pub fn read(asked: Asked<'_>) -> Result<Option<Self>, TermsError> {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let text = |bytes| Text::from(OsStr::from_bytes(bytes));
        let mode = asked.parsed("cgroup-dir-mode", |text| {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            mode.ok_or("an octal mode like 0755 is wanted")
        })?;
        let mut options = Vec::new();
        for got in asked.0.list("cgroup-opt") {
            options.push(option(&got).map_err(|cause| TermsError::new(&got, "cgroup-opt", cause))?);
        }
        let groups = Self {
            directories: asked.0.list("cgroup").map(|got| text(got.value)).collect(),
            mode: mode.unwrap_or(DIRECTORY_MODE),
            options,
        };
        Ok((!groups.directories.is_empty()).then_some(groups))
    }

    /// Why a tenant's file may not name any: what root makes and writes to is nobody else's to choose.
    pub const NOT_A_TENANTS: &str =
        "cgroup is the administrator's to say: a tenant's file has memory-max, tasks-max, cpu-max and so on";
}

/// `file=value` or `file:value`, whichever comes first. The file is a name in the directory and nothing more.
fn option(got: &Got<'_, &[u8]>) -> Result<(Text, Text), &'static str> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let at = got.value.iter().position(|byte| matches!(byte, b'=' | b':')).ok_or("FILE=VALUE is wanted")?;
    let (file, value) = (&got.value[..at], &got.value[at + 1..]);
    if file.is_empty() || file.starts_with(b".") || file.contains(&b'/') {
        return Err("the file is a name in the group's directory, without `/`");
    }
    Ok((Text::from(OsStr::from_bytes(file)), Text::from(OsStr::from_bytes(value))))
}

impl fmt::Display for NamedGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.directories.iter().map(ToString::to_string).collect::<Vec<_>>();
        words.extend(self.options.iter().map(|(file, value)| format!("{file}={value}")));
        f.write_str(&words.join(" "))
    }
}
