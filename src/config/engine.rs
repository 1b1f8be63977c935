//! The reading itself: sources feed one list of pairs, the list is expanded, then applied.

use super::answers::{Applied, Config, ReadText, Which};
use super::blocks::Block;
use super::declare::Declared;
use super::door::World;
use super::error::{Halt, Step, Trouble, halt};
use super::expand::{Most, Runaway, expand, placeholder};
use super::magic::FileVars;
use super::model::{Limits, Origin, Output, Pair, lossy};
use super::options::{self, Opt, OptionId, Plugins};
use super::validate::Checks;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

/// Whose configuration it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// The emperor's: our own options are known, plugins are taken as given.
    Emperor,
    /// A vassal's, or any other uWSGI instance's: exactly what uWSGI would read.
    Uwsgi,
    /// A vassal's, as the emperor reads it: what uWSGI would read, and our own options of a vassal.
    Vassal,
}

/// One reading under way.
pub(super) struct Engine<'w> {
    pub world: &'w dyn World,
    pub limits: Limits,
    pub program: &'w str,
    pub mode: Mode,
    /// The environment, as `$(..)` and `if-env` see it.
    pub environment: HashMap<Vec<u8>, Vec<u8>>,
    pub pairs: Vec<Pair>,
    done: Vec<bool>,
    first: HashMap<Arc<[u8]>, usize>,
    applied: Vec<Applied>,
    implied: Vec<(OptionId, Origin)>,
    pub output: Output,
    pub plugins: Plugins,
    /// Names of plugins that are loaded, for `if-plugin`.
    pub plugin_names: Vec<String>,
    pub plugin_folders: Vec<Vec<u8>>,
    pub autoload: bool,
    pub strict: bool,
    /// Words in lower case.
    pub blacklist: Option<HashSet<Vec<u8>>>,
    pub whitelist: Option<HashSet<Vec<u8>>>,
    pub block: Option<Arc<Block>>,
    /// The open block is being carried out: pairs that arrive are its own.
    pub running: bool,
    pub reloading: bool,
    pub declared: HashMap<Vec<u8>, Arc<Declared>>,
    pub declared_depth: usize,
    pub fallback: Option<Vec<u8>>,
    pub inject_before: Vec<Vec<u8>>,
    pub inject_after: Vec<Vec<u8>>,
    /// Variables of the file read last, and of the first main file.
    pub own: FileVars,
    pub main: Option<FileVars>,
    pub last_ini: Option<Vec<u8>>,
    /// How deep we are in files that cannot be the main one.
    pub templates: usize,
    pub reads: usize,
    pub bytes: usize,
    /// What is left of `Limits::work`.
    pub work: usize,
    pub checks: Checks,
    /// Texts as they were read, if they are to be kept.
    pub texts: Option<Vec<ReadText>>,
}

impl<'w> Engine<'w> {
    pub(super) fn new(world: &'w dyn World, limits: Limits, program: &'w str, mode: Mode) -> Self {
        let mut plugins = Plugins::core();
        match mode {
            Mode::Emperor => {
                plugins.load("emperor");
                plugins.load("vassal"); // so that it can be said where such a line belongs
                plugins.load("zergpool");
            }
            Mode::Uwsgi | Mode::Vassal if world.plugin_folder().is_none() => plugins = Plugins::all(),
            Mode::Uwsgi | Mode::Vassal => {}
        }
        if mode == Mode::Vassal {
            plugins.load("vassal");
            plugins.load("zergpool");
        }
        Self {
            world,
            limits,
            program,
            mode,
            environment: HashMap::new(),
            pairs: Vec::new(),
            done: Vec::new(),
            first: HashMap::new(),
            applied: Vec::new(),
            implied: Vec::new(),
            output: Output::default(),
            plugins,
            plugin_names: Vec::new(),
            plugin_folders: Vec::new(),
            autoload: false,
            strict: false,
            blacklist: None,
            whitelist: None,
            block: None,
            running: false,
            reloading: false,
            declared: HashMap::new(),
            declared_depth: 0,
            fallback: None,
            inject_before: Vec::new(),
            inject_after: Vec::new(),
            own: FileVars::default(),
            main: None,
            last_ini: None,
            templates: 0,
            reads: 0,
            bytes: 0,
            work: limits.work,
            checks: Checks::default(),
            texts: None,
        }
    }

    pub(super) fn run(&mut self, arguments: &[OsString], environment: &[(OsString, OsString)]) -> Step {
        self.take_environment(environment)?;
        let arguments: Vec<Vec<u8>> = arguments.iter().map(|a| a.clone().into_vec()).collect();
        for (index, name) in self.command_line(&arguments)? {
            if name.first() != Some(&b'[') {
                self.load_by_extension("", &name, &Origin::argument(index))?;
            }
        }
        self.expand_all()?;
        self.apply_all()?;
        self.answer_get()
    }

    pub(super) fn finish(self, exit: Option<u8>) -> Config {
        Config {
            pairs: self.pairs,
            applied: self.applied,
            implied: self.implied,
            output: self.output,
            exit,
            plugins: self.plugins,
            mode: self.mode,
            open_block: self.block.map(|block| block.origin.clone()),
            strict: self.strict,
            texts: self.texts.unwrap_or_default(),
        }
    }

    /// Variables named `UWSGI_…` are options, in the order of the environment.
    fn take_environment(&mut self, environment: &[(OsString, OsString)]) -> Step {
        let bytes = |text: &OsString| text.clone().into_vec();
        self.environment = environment.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
        let reloads = self.environment.get(&b"UWSGI_RELOADS"[..]).map(|v| super::values::atoi(Some(v)));
        self.reloading = reloads.is_some();
        let count = reloads.map_or(0, |n| n.saturating_add(1));
        self.environment.insert(b"UWSGI_RELOADS".to_vec(), count.to_string().into_bytes());
        self.environment.insert(b"UWSGI_ORIGINAL_PROC_NAME".to_vec(), self.program.as_bytes().to_vec());
        if let Some(names) = self.environment.get(&b"UWSGI_PLUGINS"[..]).cloned() {
            self.load_plugins(&names, false, &Origin::variable(b"UWSGI_PLUGINS"))?;
        }
        for (name, value) in environment {
            let (name, value) = (bytes(name), bytes(value));
            let Some(rest) = name.strip_prefix(b"UWSGI_") else { continue };
            if !NOT_OPTIONS.iter().any(|no| no.as_bytes() == rest) {
                let key: Vec<u8> =
                    rest.iter().map(|b| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() }).collect();
                self.push(&key, Some(&value), Origin::variable(&name))?;
            }
        }
        Ok(())
    }

    /// Takes a pair from a source.
    pub(super) fn push(&mut self, key: &[u8], value: Option<&[u8]>, origin: Origin) -> Step {
        self.take(key, value, origin, false)
    }

    /// Takes a pair; a placeholder is finished at once.
    pub(super) fn take(&mut self, key: &[u8], value: Option<&[u8]>, origin: Origin, frozen: bool) -> Step {
        self.allowed(key, &origin)?;
        if !self.running {
            if super::blocks::is_end(key) {
                self.block = None;
            } else if let Some(block) = self.block.clone() {
                return self.pass_block(&block, key, value, &origin);
            }
        }
        self.append(key, value, origin, frozen)
    }

    fn allowed(&self, key: &[u8], origin: &Origin) -> Step {
        let listed = |list: &HashSet<Vec<u8>>| list.contains(&key.to_ascii_lowercase());
        let by = match (&self.blacklist, &self.whitelist) {
            (Some(list), _) if listed(list) => "blacklist",
            (_, Some(list)) if !listed(list) => "whitelist",
            _ => return Ok(()),
        };
        halt(origin, Trouble::Forbidden { key: key.to_vec(), by })
    }

    fn append(&mut self, key: &[u8], value: Option<&[u8]>, origin: Origin, frozen: bool) -> Step {
        let index = self.pairs.len();
        self.bytes += key.len() + value.map_or(0, <[u8]>::len);
        if index >= self.limits.pairs || self.bytes > self.limits.total_bytes {
            return halt(&origin, Trouble::TooMuch("the configuration is too large".into()));
        }
        let key: Arc<[u8]> = key.into();
        self.first.entry(Arc::clone(&key)).or_insert(index);
        self.pairs.push(Pair {
            key: Arc::clone(&key),
            value: value.map(<[u8]>::to_vec),
            written: None,
            origin,
        });
        self.done.push(frozen);
        if frozen {
            return Ok(());
        }
        let Some(option) = self.known(&key) else {
            if let Some(declared) = self.declared.get(&*key).filter(|d| !d.late).cloned() {
                self.done[index] = true;
                let pair = self.pairs[index].clone();
                return self.use_declared(&declared, pair.value.as_deref(), &pair.origin);
            }
            if self.strict {
                return halt(&self.pairs[index].origin, Trouble::Strict(key.to_vec()));
            }
            return Ok(());
        };
        for name in option.implies {
            if let Some(other) = options::find(name.as_bytes()) {
                self.implied.push((other.same_as, self.pairs[index].origin.clone()));
            }
        }
        if option.immediate {
            self.perform_pair(index, option)?;
        }
        Ok(())
    }

    /// The option of that name, if its plugin is loaded.
    pub(super) fn known(&mut self, key: &[u8]) -> Option<&'static Opt> {
        let option = options::find(key)?;
        if self.autoload && !self.plugins.know(option) && !option.is_ours() {
            self.plugins.load(option.plugin_name());
        }
        self.plugins.know(option).then_some(option)
    }

    fn perform_pair(&mut self, index: usize, option: &'static Opt) -> Step {
        self.done[index] = true;
        self.applied.push(Applied { which: Which::Pair(index), option });
        if matches!(option.canonical().name, "json" | "xmlconfig") {
            self.forget_section(index);
            let Pair { value, written, origin, .. } = self.pairs[index].clone();
            return self.perform(option, written.as_deref().or(value.as_deref()), &origin);
        }
        let Pair { value, origin, .. } = self.pairs[index].clone();
        self.perform(option, value.as_deref(), &origin)
    }

    /// The pairs that load json and xml keep only the file's name; everybody who looks later sees them so.
    fn forget_section(&mut self, index: usize) {
        let pair = &mut self.pairs[index];
        let Some(value) = &pair.value else { return };
        let file = super::load::split_section(value).0.to_vec();
        if file.len() < value.len() {
            pair.written = pair.value.replace(file).map(Vec::into_boxed_slice);
        }
    }

    /// Applies a pair that is not in the list.
    pub(super) fn perform_derived(&mut self, key: &[u8], value: &[u8], origin: Origin) -> Step {
        if let Some(option) = self.known(key) {
            let pair =
                Pair { key: key.into(), value: Some(value.to_vec()), written: None, origin: origin.clone() };
            self.applied.push(Applied { which: Which::Derived(Box::new(pair)), option });
            return self.perform(option, Some(value), &origin);
        }
        if let Some(declared) = self.declared.get(key).cloned() {
            return self.use_declared(&declared, Some(value), &origin);
        }
        if self.strict {
            return halt(&origin, Trouble::Strict(key.to_vec()));
        }
        Ok(())
    }

    /// The value of the first pair with that key, if it has one.
    pub(super) fn first_value(&self, key: &[u8]) -> Option<&[u8]> {
        self.pairs[*self.first.get(key)?].value.as_deref()
    }

    fn expand_all(&mut self) -> Step {
        for symbol in *b"$@%" {
            for index in 0..self.pairs.len() {
                if !self.done[index] {
                    self.expand_one(symbol, index)?;
                }
            }
        }
        Ok(())
    }

    fn expand_one(&mut self, symbol: u8, index: usize) -> Step {
        let Some(value) = self.pairs[index].value.as_deref() else { return Ok(()) };
        if !value.windows(2).any(|two| two == [symbol, b'(']) {
            return Ok(());
        }
        let bytes = self.limits.value_bytes;
        let mut work = self.work;
        let most = Most { bytes, replacements: self.limits.expansions, work: &mut work };
        let result = match symbol {
            b'$' => expand::<Failed>(symbol, value, most, |name| {
                Ok(self.environment.get(name).map(|v| Cow::Borrowed(&v[..])))
            }),
            b'%' => {
                expand(symbol, value, most, |name| Ok(placeholder(name, bytes, |key| self.first_value(key))?))
            }
            _ => {
                let (value, origin) = (value.to_vec(), self.pairs[index].origin.clone());
                expand(symbol, &value, most, |name| {
                    self.bring_in(name, &origin).map(|text| Some(Cow::Owned(text))).map_err(Failed::Halt)
                })
            }
        };
        self.work = work;
        let pair = &mut self.pairs[index];
        match result {
            Ok(None) => {}
            Ok(Some(new)) => {
                self.bytes += new.len();
                if self.bytes > self.limits.total_bytes {
                    return halt(&pair.origin, Trouble::TooMuch("the configuration is too large".into()));
                }
                let old = pair.value.replace(new);
                pair.written = pair.written.take().or_else(|| old.map(Vec::into_boxed_slice));
            }
            Err(Failed::Halt(halt)) => return Err(halt),
            Err(Failed::Runaway(runaway)) => {
                let (key, symbol) = (lossy(&pair.key), char::from(symbol));
                let text = match runaway {
                    Runaway::Length => {
                        format!("the value of {key} grows without end: it refers to itself by {symbol}(..)")
                    }
                    Runaway::Count => format!("{key} refers to itself, or to too much, by {symbol}(..)"),
                };
                return halt(&pair.origin, Trouble::TooMuch(text));
            }
        }
        Ok(())
    }

    /// Applies in list order. When that appended pairs, uWSGI begins again at the start; as all above is done or
    /// unknown, this matters only if what is known has changed meanwhile.
    fn apply_all(&mut self) -> Step {
        let known = |engine: &Self| (engine.plugins, engine.declared.len(), engine.strict, engine.autoload);
        let mut before = known(self);
        let mut index = 0;
        while index < self.pairs.len() {
            let count = self.pairs.len();
            if !self.done[index] {
                self.apply_one(index)?;
            }
            index += 1;
            if self.pairs.len() != count && known(self) != before {
                before = known(self);
                index = 0;
            }
        }
        Ok(())
    }

    /// `--get`: the answer goes to standard output, and the program ends.
    fn answer_get(&mut self) -> Step {
        let mut asked = false;
        for at in 0..self.applied.len() {
            if self.applied[at].option.name != "get" {
                continue;
            }
            asked = true;
            let Which::Pair(index) = self.applied[at].which else { continue };
            let key = self.pairs[index].value.clone().unwrap_or_default();
            if let Some(value) = self.first_value(&key).map(<[u8]>::to_vec) {
                self.output.print(&value);
            }
        }
        if asked { Err(Halt::Exit(0)) } else { Ok(()) }
    }

    /// Takes from what is left of the work that this reading may be.
    pub(super) fn spend(&mut self, work: usize, origin: &Origin) -> Step {
        match self.work.checked_sub(work) {
            Some(left) => {
                self.work = left;
                Ok(())
            }
            None => halt(origin, Trouble::TooMuch("this configuration takes too long to read".into())),
        }
    }

    fn apply_one(&mut self, index: usize) -> Step {
        let key = Arc::clone(&self.pairs[index].key);
        if let Some(option) = self.known(&key) {
            return self.perform_pair(index, option);
        }
        if let Some(declared) = self.declared.get(&*key).cloned() {
            self.done[index] = true;
            let pair = self.pairs[index].clone();
            return self.use_declared(&declared, pair.value.as_deref(), &pair.origin);
        }
        if self.strict {
            return halt(&self.pairs[index].origin, Trouble::Strict(key.to_vec()));
        }
        Ok(())
    }

    /// Counts one more thing that is read.
    pub(super) fn count_read(&mut self, origin: &Origin) -> Step {
        self.reads += 1;
        if self.reads > self.limits.reads {
            let most = self.limits.reads;
            return halt(origin, Trouble::TooMuch(format!("more than {most} files are read")));
        }
        Ok(())
    }
}

/// How an expansion failed.
enum Failed {
    Runaway(Runaway),
    Halt(Halt),
}

impl From<Runaway> for Failed {
    fn from(runaway: Runaway) -> Self {
        Self::Runaway(runaway)
    }
}

/// Variables that never become options, without `UWSGI_`.
const NOT_OPTIONS: [&str; 8] = [
    "RELOADS",
    "VASSALS_DIR",
    "EMPEROR_FD",
    "EMPEROR_FD_CONFIG",
    "EMPEROR_PROXY",
    "BROODLORD_NUM",
    "JAIL_PID",
    "ORIGINAL_PROC_NAME",
];
