//! What applying one option does to the reading itself. Everything else an option means is up to who asks for it.

use super::blocks::Block;
use super::engine::{Engine, Mode};
use super::error::{Halt, Step, Trouble, halt};
use super::load::Format;
use super::model::{How, Origin, lossy};
use super::options::{self, Kind, Opt};
use super::values;
use std::collections::HashSet;
use std::sync::Arc;

impl Engine<'_> {
    /// Runs one option on one value.
    pub(super) fn perform(&mut self, option: &'static Opt, value: Option<&[u8]>, origin: &Origin) -> Step {
        let text = value.unwrap_or_default();
        let late = option.name == "declare-option2";
        let option = option.canonical();
        if let Err(message) = self.checks.value(option, value) {
            return halt(origin, Trouble::Value(message));
        }
        match option.kind {
            Kind::Load => return self.perform_load(option.name, text, origin),
            Kind::Logic => return self.open_block(option.name, text, origin),
            Kind::Placeholder => return self.perform_set(option.name != "set", text, origin),
            Kind::Declare => return self.declare(text, late, origin),
            Kind::Exit => {
                // `exit` alone is 0 in a file, where it has the empty value, and 1 on the command line.
                let [status, ..] = values::atoi(value).to_le_bytes();
                return Err(Halt::Exit(status));
            }
            Kind::PluginList => return self.load_plugins(text, option.name == "need-plugins", origin),
            _ => {}
        }
        match option.name {
            "print" | "iprint" => self.output.print(text),
            "strict" => self.strict = values::truth(value),
            "fallback-config" => self.fallback = Some(text.to_vec()),
            "inject-before" => self.inject_before.push(text.to_vec()),
            "inject-after" => self.inject_after.push(text.to_vec()),
            "blacklist" => self.blacklist = Some(lower_words(text)),
            "whitelist" => self.whitelist = Some(lower_words(text)),
            "end-blacklist" => self.blacklist = None,
            "end-whitelist" => self.whitelist = None,
            "plugins-dir" => self.plugin_folders.push(text.to_vec()),
            "autoload" => self.autoload = values::truth(value),
            "early-envdir" => self.take_variables(text, origin)?,
            "resolve" => self.resolve(text, origin)?,
            _ => {}
        }
        Ok(())
    }

    fn perform_load(&mut self, word: &'static str, name: &[u8], origin: &Origin) -> Step {
        match word {
            "ini" => self.load(Format::Ini, word, name, origin),
            "yaml" => self.load(Format::Yaml, word, name, origin),
            "json" => self.load(Format::Json, word, name, origin),
            "xmlconfig" => self.load(Format::Xml, "xml", name, origin),
            "include" | "inherit" => self.load_by_extension(word, name, origin),
            _ => halt(origin, Trouble::UnknownFormat(name.to_vec())),
        }
    }

    fn open_block(&mut self, word: &'static str, argument: &[u8], origin: &Origin) -> Step {
        if self.block.is_some() {
            return halt(origin, Trouble::NestedBlock(word.into()));
        }
        self.block = Some(Arc::new(Block { word, argument: argument.to_vec(), origin: origin.clone() }));
        Ok(())
    }

    fn perform_set(&mut self, placeholder: bool, text: &[u8], origin: &Origin) -> Step {
        let Some((key, value)) = values::split_first(text, b'=') else {
            return halt(origin, Trouble::BadSet);
        };
        if placeholder && self.known(key).is_some() {
            return halt(origin, Trouble::PlaceholderIsOption(key.to_vec()));
        }
        self.take(key, Some(value), origin.with(How::Set, origin), placeholder)
    }

    /// Makes the options of plugins known. Whether such a plugin is there matters only to uWSGI itself.
    pub(super) fn load_plugins(&mut self, names: &[u8], needed: bool, origin: &Origin) -> Step {
        for item in values::words(names, b',') {
            let name = match values::split_first(item, b':') {
                Some((modifier, name)) if modifier.iter().all(u8::is_ascii_digit) => name,
                _ => item,
            };
            let shown = lossy(name);
            let table = options::plugin_of(&shown);
            if self.mode != Mode::Emperor && !self.find_plugin(&shown) {
                if needed {
                    return halt(origin, Trouble::NoPlugin(name.to_vec()));
                }
                continue;
            }
            if !options::OURS.contains(&table) {
                self.plugins.load(table);
            }
            self.plugin_names.push(table.to_owned());
        }
        Ok(())
    }

    /// Whether uWSGI would find a plugin. One without a folder of plugins has them built in.
    fn find_plugin(&mut self, name: &str) -> bool {
        let Some(folder) = self.world.plugin_folder() else { return true };
        let file = format!("{name}_plugin.so");
        let folders = self.plugin_folders.iter().map(|f| lossy(f)).chain([folder.display().to_string()]);
        let paths: Vec<String> = if name.contains('/') {
            vec![name.to_owned()]
        } else {
            folders.map(|folder| format!("{folder}/{file}")).collect()
        };
        if paths.iter().any(|path| self.world.kind(path.as_bytes()).is_some()) {
            return true;
        }
        let path = paths.last().cloned().unwrap_or_default();
        let why = "No such file or directory";
        self.output.say(&[format!("open(\"{path}\"): {why}").as_bytes()]);
        let text =
            format!("!!! UNABLE to load uWSGI plugin: {path}: cannot open shared object file: {why} !!!");
        self.output.say(&[text.as_bytes()]);
        false
    }

    fn take_variables(&mut self, directory: &[u8], origin: &Origin) -> Step {
        self.count_read(origin)?;
        let found = match self.world.variables(directory, self.limits.file_bytes) {
            Ok(found) => found,
            Err(error) => return halt(origin, Trouble::Unreadable { name: directory.to_vec(), error }),
        };
        for (name, mut value) in found {
            if value.is_empty() {
                self.environment.remove(&name);
                continue;
            }
            if value.last() == Some(&b'\n') {
                value.pop();
            }
            self.environment.insert(name, value);
        }
        Ok(())
    }

    fn resolve(&mut self, text: &[u8], origin: &Origin) -> Step {
        let Some((key, host)) = values::split_first(text, b'=') else {
            return halt(origin, Trouble::Value("invalid resolve syntax, must be placeholder=domain".into()));
        };
        let Some(address) = self.world.resolve(&String::from_utf8_lossy(host)) else {
            return halt(origin, Trouble::NoHost(host.to_vec()));
        };
        self.take(key, Some(address.as_bytes()), origin.with(How::Set, origin), true)
    }
}

fn lower_words(text: &[u8]) -> HashSet<Vec<u8>> {
    text.split(|b| *b == b' ').map(<[u8]>::to_ascii_lowercase).collect()
}
