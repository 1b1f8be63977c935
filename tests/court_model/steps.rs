//! What may happen, and how vassals may be treated.

use std::time::Duration;

use emperor::emperor::court::{Policy, Sign, Wish};
use emperor::vassal::link::Word;
use proptest::prelude::*;

use super::world::{NAMES, SOURCES};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Started {
    Well,
    MachineShort,
    Badly,
}

/// Whether a vassal has an on-demand socket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    OnDemand,
    Ordinary,
    NotBound,
    Again,
}

/// One thing that happens. The numbers choose among what there is at the moment.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write {
        source: u16,
        name: u8,
        root: bool,
        broken: bool,
        noticed: bool,
    },
    Remove {
        source: u16,
        name: u8,
        noticed: bool,
    },
    BecomeOdd {
        source: u16,
        name: u8,
    },
    Chmod {
        source: u16,
        name: u8,
    },
    ScanBegins {
        source: u16,
    },
    ScanSees {
        source: u16,
        name: u8,
    },
    ScanEnds {
        source: u16,
    },
    Scan {
        source: u16,
    },
    Spawned {
        which: usize,
        how: Started,
    },
    Admitted {
        which: usize,
        answer: Answer,
    },
    Say {
        which: usize,
        word: Word,
    },
    Show {
        which: usize,
        sign: Sign,
    },
    Read {
        which: usize,
    },
    Hang {
        which: usize,
    },
    CloseLink {
        which: usize,
    },
    Die {
        which: usize,
        clean: bool,
    },
    Connect,
    /// Somebody operates a vassal by hand.
    Want {
        which: usize,
        wish: Wish,
    },
    Pass {
        micros: u64,
    },
    ReloadAll,
    ClearBlacklist,
    Shutdown,
    /// Reports that come too late, or twice.
    Stray {
        what: u8,
        which: usize,
    },
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let (source, name, which) = (0..SOURCES, 0..NAMES, 0..8_usize);
    let file = (source.clone(), name);
    let word = prop::sample::select(vec![
        Word::Spawned,
        Word::ConfigWanted,
        Word::Accepting,
        Word::Loyal,
        Word::Loyal,
        Word::Idle,
        Word::Heartbeat,
        Word::Sos,
    ]);
    let sign = prop::sample::select(vec![
        Sign::Ready,
        Sign::Ready,
        Sign::Answers,
        Sign::Reloading,
        Sign::Stopping,
        Sign::Alive,
        Sign::Hangs,
    ]);
    let how = prop::sample::select(vec![Started::Well, Started::Well, Started::MachineShort, Started::Badly]);
    let answer = prop::sample::select(vec![
        Answer::OnDemand,
        Answer::OnDemand,
        Answer::Ordinary,
        Answer::NotBound,
        Answer::Again,
    ]);
    let wish = prop::sample::select(vec![
        Wish::Stop,
        Wish::Start,
        Wish::Start,
        Wish::Restart,
        Wish::Reload,
        Wish::Roll,
        Wish::Roll,
        Wish::Clear,
    ]);
    let micros = prop::sample::select(vec![1, 1000, 100_000, 400_000, 1_000_000, 11_000_000, 70_000_000]);
    prop_oneof![
        8 => (file.clone(), any::<[bool; 3]>())
            .prop_map(|((source, name), [root, broken, noticed])| Write { source, name, root, broken, noticed }),
        4 => (file.clone(), any::<bool>())
            .prop_map(|((source, name), noticed)| Remove { source, name, noticed }),
        1 => file.clone().prop_map(|(source, name)| BecomeOdd { source, name }),
        1 => file.clone().prop_map(|(source, name)| Chmod { source, name }),
        1 => source.clone().prop_map(|source| ScanBegins { source }),
        1 => file.prop_map(|(source, name)| ScanSees { source, name }),
        1 => source.clone().prop_map(|source| ScanEnds { source }),
        2 => source.prop_map(|source| Scan { source }),
        12 => (which.clone(), how).prop_map(|(which, how)| Spawned { which, how }),
        5 => (which.clone(), answer).prop_map(|(which, answer)| Admitted { which, answer }),
        5 => (which.clone(), sign).prop_map(|(which, sign)| Show { which, sign }),
        10 => (which.clone(), word).prop_map(|(which, word)| Say { which, word }),
        4 => which.clone().prop_map(|which| Read { which }),
        1 => which.clone().prop_map(|which| Hang { which }),
        2 => which.clone().prop_map(|which| CloseLink { which }),
        6 => (which.clone(), any::<bool>()).prop_map(|(which, clean)| Die { which, clean }),
        3 => Just(Connect),
        5 => (which.clone(), wish).prop_map(|(which, wish)| Want { which, wish }),
        10 => micros.prop_map(|micros| Pass { micros }),
        1 => Just(ReloadAll),
        1 => Just(ClearBlacklist),
        1 => (0..40_u8).prop_map(|n| if n == 0 { Shutdown } else { ReloadAll }),
        2 => (0..9_u8, which).prop_map(|(what, which)| Stray { what, which }),
    ]
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let time = || prop::sample::select(vec![0, 1, 1000, 30_000]).prop_map(Duration::from_millis);
    ((time(), time(), time(), time()), (time(), time(), 0..4_u32, 0..3_u32), any::<[bool; 4]>()).prop_map(
        |((throttle, heartbeat, curse, stop), (grace, reload, max_starting, broodlord), flags)| Policy {
            throttle,
            max_throttle: Duration::from_secs(3),
            required_heartbeat: heartbeat,
            curse_tolerance: curse,
            stop_timeout: stop,
            shutdown_grace: grace,
            reload_timeout: reload,
            max_starting,
            broodlord,
            tyrant: flags[0],
            on_demand: flags[1],
            no_blacklist: flags[2],
            abandon_after: if flags[3] { 2 } else { 0 },
            ..Policy::default()
        },
    )
}
