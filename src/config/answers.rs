//! A configuration that was read: the list, what was applied in which order, and typed answers.

use super::engine::Mode;
use super::error::{ConfigError, Trouble};
use super::load::Format;
use super::model::{Origin, Output, Pair, SourceFile};
use super::options::{self, HandledBy, Kind, Opt, OptionId, Plugins};
use super::values;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A configuration. All pairs are kept; nothing is merged.
#[derive(Debug)]
pub struct Config {
    pub(super) pairs: Vec<Pair>,
    pub(super) applied: Vec<Applied>,
    pub(super) implied: Vec<(OptionId, Origin)>,
    pub(super) output: Output,
    pub(super) exit: Option<u8>,
    pub(super) plugins: Plugins,
    pub(super) mode: Mode,
    pub(super) open_block: Option<Origin>,
    pub(super) strict: bool,
    pub(super) texts: Vec<ReadText>,
}

/// A file as it was read, kept for `check`.
#[derive(Debug)]
pub(super) struct ReadText {
    pub file: Arc<SourceFile>,
    pub format: Format,
    /// The section that was asked for.
    pub section: Vec<u8>,
    /// The bytes before `%x` was replaced.
    pub raw: Vec<u8>,
    /// Lines of keys that the format drops because they have no value.
    pub dropped: Vec<Origin>,
    /// Where reading stopped although there is more.
    pub stopped: Option<Origin>,
}

/// One application of an option.
#[derive(Debug)]
pub(super) struct Applied {
    pub which: Which,
    pub option: &'static Opt,
}

#[derive(Debug)]
pub(super) enum Which {
    /// A pair of the list.
    Pair(usize),
    /// A pair that a declared option stood for.
    Derived(Box<Pair>),
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub struct Got<'c, T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: &'c Origin,
}

impl Config {
    /// All pairs, in the order they were read.
    #[must_use]
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// All options in the order they were applied: immediate ones while reading, then the others.
    pub fn applied(&self) -> impl Iterator<Item = (&'static Opt, &Pair)> {
        self.applied.iter().map(|applied| (applied.option, self.pair_of(applied)))
    }

    /// What the reading said: `iprint`, `print`, `--get` on standard output, the rest for the log.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// The status to end with at once, if the configuration asks for that (`exit`, `--get`).
    #[must_use]
    pub fn exit(&self) -> Option<u8> {
        self.exit
    }

    /// Whose configuration it was read as.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether `strict` was on.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// The plugins whose options are known.
    #[must_use]
    pub fn plugins(&self) -> Plugins {
        self.plugins
    }

    /// A boolean option, by its canonical name or any alias. The last application wins; without one, whether another
    /// option turned it on.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.flag_origin(name).is_some_and(|got| got.value)
    }

    /// As [`Config::flag`], with the place; `None` if nothing was said about it.
    #[must_use]
    pub fn flag_origin(&self, name: &str) -> Option<Got<'_, bool>> {
        let id = id(name)?;
        let last =
            self.last(name).map(|pair| Got { value: values::truth(pair.value()), origin: &pair.origin });
        last.or_else(|| {
            self.implied
                .iter()
                .find(|(option, _)| *option == id)
                .map(|(_, origin)| Got { value: true, origin })
        })
    }

    /// An integer option as the old server reads it (`atoi`; negative values never get here).
    #[must_use]
    pub fn int(&self, name: &str) -> Option<Got<'_, i32>> {
        self.last(name).map(|pair| Got { value: values::atoi(pair.value()), origin: &pair.origin })
    }

    /// An integer option that must be a number and lie in a range.
    ///
    /// # Errors
    /// [`ConfigError`] with the place of the value.
    pub fn int_in(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<Got<'_, i64>>, ConfigError> {
        let Some(pair) = self.last(name) else { return Ok(None) };
        let (value, odd) = pair.value().map_or((1, false), values::leading_integer);
        if odd || !range.contains(&value) {
            let text = String::from_utf8_lossy(pair.value().unwrap_or_default());
            let (from, to) = (range.start(), range.end());
            let text = format!("{name} = {text}: a number from {from} to {to} is wanted");
            return Err(ConfigError::new(&pair.origin, Trouble::Value(text)));
        }
        Ok(Some(Got { value, origin: &pair.origin }))
    }

    /// An unsigned option (`strtoul`); of kind `mb` in MiB as written, of kind `u16` cut at 65535.
    #[must_use]
    pub fn unsigned(&self, name: &str) -> Option<Got<'_, u64>> {
        let most =
            if options::find(name.as_bytes())?.kind == Kind::U16 { u64::from(u16::MAX) } else { u64::MAX };
        self.last(name)
            .map(|pair| Got { value: values::strtoul(pair.value()).min(most), origin: &pair.origin })
    }

    /// A text option: the value applied last; a flag without value is empty.
    #[must_use]
    pub fn string(&self, name: &str) -> Option<Got<'_, &[u8]>> {
        self.last(name).map(|pair| Got { value: pair.value().unwrap_or_default(), origin: &pair.origin })
    }

    /// As [`Config::string`], for values that must be text.
    ///
    /// # Errors
    /// [`ConfigError`] with the place of the value if it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<Got<'_, &str>>, ConfigError> {
        let Some(Got { value, origin }) = self.string(name) else { return Ok(None) };
        match std::str::from_utf8(value) {
            Ok(value) => Ok(Some(Got { value, origin })),
            Err(_) => {
                Err(ConfigError::new(origin, Trouble::Value(format!("the value of {name} is not UTF-8"))))
            }
        }
    }

    /// All values of an option in the order of application.
    pub fn list(&self, name: &str) -> impl Iterator<Item = Got<'_, &[u8]>> {
        let id = id(name);
        self.applied()
            .filter(move |(option, _)| Some(option.same_as) == id)
            .map(|(_, pair)| Got { value: pair.value().unwrap_or_default(), origin: &pair.origin })
    }

    /// The mode of a `mode3` option such as `chmod-socket`.
    #[must_use]
    pub fn mode3(&self, name: &str) -> Option<Got<'_, u32>> {
        let pair = self.last(name)?;
        Some(Got { value: values::mode3(pair.value())?, origin: &pair.origin })
    }

    /// Whether an option was applied at all.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.last(name).is_some()
    }

    /// The value of the first pair with this key, option or not: what `--get` answers.
    #[must_use]
    pub fn first_value(&self, key: &[u8]) -> Option<&[u8]> {
        self.pairs.iter().find(|pair| *pair.key == *key)?.value()
    }

    /// Pairs whose key is no option here, with the nearest known name.
    pub fn unknown(&self) -> impl Iterator<Item = (&Pair, Option<&'static Opt>)> {
        self.pairs
            .iter()
            .filter(|pair| !super::blocks::is_end(&pair.key))
            .filter(|pair| options::find(&pair.key).is_none_or(|option| !self.plugins.know(option)))
            .enumerate()
            // A file of so many unknown keys is full of placeholders; looking each up would cost more than it helps.
            .map(|(at, pair)| (pair, (at < MOST_GUESSES).then(|| options::nearest(&pair.key, self.plugins))))
            .map(|(pair, near)| (pair, near.flatten()))
    }

    /// Options that were given but are nothing the emperor acts on.
    pub fn not_handled(&self) -> impl Iterator<Item = (&'static Opt, &Pair)> {
        self.applied()
            .filter(|(option, _)| matches!(option.handled_by, HandledBy::Vassal | HandledBy::Ignored))
    }

    /// Where a block was opened that nothing closed.
    #[must_use]
    pub fn open_block(&self) -> Option<&Origin> {
        self.open_block.as_ref()
    }

    /// The list as the old server prints it for `--show-config`.
    #[must_use]
    pub fn show(&self) -> Vec<u8> {
        let mut out = b"\n;uWSGI instance configuration\n[uwsgi]\n".to_vec();
        for pair in &self.pairs {
            out.extend_from_slice(&pair.key);
            out.extend_from_slice(b" = ");
            out.extend_from_slice(pair.value().unwrap_or(b"true"));
            out.push(b'\n');
        }
        out.extend_from_slice(b";end of configuration\n\n");
        out
    }

    pub(super) fn pair_of<'c>(&'c self, applied: &'c Applied) -> &'c Pair {
        match &applied.which {
            Which::Pair(index) => &self.pairs[*index],
            Which::Derived(pair) => pair,
        }
    }

    fn last(&self, name: &str) -> Option<&Pair> {
        let id = id(name);
        debug_assert!(id.is_some(), "{name} is not in the option table");
        self.applied.iter().rev().find(|a| Some(a.option.same_as) == id).map(|a| self.pair_of(a))
    }
}

/// For so many unknown keys the nearest known name is looked up.
const MOST_GUESSES: usize = 200;

fn id(name: &str) -> Option<OptionId> {
    options::find(name.as_bytes()).map(|option| option.same_as)
}
