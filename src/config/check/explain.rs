//! How one value came about.

use crate::config::answers::Config;
use crate::config::model::Pair;
use crate::config::options::{self, Kind, Opt};

/// Everything that was said about one key.
#[derive(Debug)]
pub struct Explanation<'c> {
    /// The option it is, under its first name; `None` for a placeholder.
    pub option: Option<&'static Opt>,
    /// What was said, in the order of application; what was not applied comes first.
    pub mentions: Vec<Mention<'c>>,
    /// Whether all mentions count (a list), not only the last.
    pub all_count: bool,
    /// It was not said at all but another option turned it on, at this place.
    pub implied_by: Option<&'c crate::config::Origin>,
}

/// One thing that was said about a key.
#[derive(Clone, Copy, Debug)]
pub struct Mention<'c> {
    /// The pair: key as written, value, value before expansion, origin.
    pub pair: &'c Pair,
    /// When it was applied, counted from 1; `None` if it never was.
    pub applied: Option<usize>,
    /// Whether it is in force.
    pub counts: bool,
}

impl Config {
    /// Tells how the value of `key` came about: every pair with that key or another name of the option, in order.
    #[must_use]
    pub fn explain(&self, key: &[u8]) -> Explanation<'_> {
        let option = options::find(key).filter(|o| self.plugins().know(o)).map(Opt::canonical);
        let Some(option) = option else {
            // Of a placeholder the first pair counts.
            let mut mentions: Vec<Mention<'_>> = self
                .pairs()
                .iter()
                .filter(|pair| pair.key() == key)
                .map(|pair| Mention { pair, applied: None, counts: false })
                .collect();
            if let Some(first) = mentions.first_mut() {
                first.counts = true;
            }
            return Explanation { option: None, mentions, all_count: false, implied_by: None };
        };
        let all_count = is_list(option.kind);
        let mut mentions: Vec<Mention<'_>> = self
            .applied()
            .enumerate()
            .filter(|(_, (other, _))| other.same_as == option.same_as)
            .map(|(at, (_, pair))| Mention { pair, applied: Some(at + 1), counts: all_count })
            .collect();
        if let Some(last) = mentions.last_mut() {
            last.counts = true;
        }
        let implied_by = self.flag_origin(option.name).filter(|_| mentions.is_empty()).map(|got| got.origin);
        Explanation { option: Some(option), mentions, all_count, implied_by }
    }
}

fn is_list(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::List
            | Kind::ListIp
            | Kind::ListPair
            | Kind::ListRegex
            | Kind::ListRegexValue
            | Kind::ListNameRegex
            | Kind::Socket
            | Kind::SharedSocket
            | Kind::SocketTls
            | Kind::Daemon
            | Kind::Cron
            | Kind::Cron2
            | Kind::Route
            | Kind::Env
            | Kind::PluginList
            | Kind::Load
            | Kind::Logic
            | Kind::LogicEnd
            | Kind::Placeholder
            | Kind::Print
            | Kind::Declare
            | Kind::Special
    )
}
