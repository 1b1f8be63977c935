//! Loading a file: its name, its text, the format it is read as; and the other sources of text.

use super::answers::ReadText;
use super::engine::Engine;
use super::error::{Failed, Halt, Step, Trouble, halt};
use super::magic::{FileVars, Surroundings, Text};
use super::model::{Origin, SourceFile, lossy};
use super::{ini, json, xml, yaml};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::Arc;

/// The formats a configuration can be written in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    Ini,
    Yaml,
    Json,
    Xml,
}

impl Format {
    /// The format that an extension stands for.
    pub(super) fn of_name(name: &[u8]) -> Option<Self> {
        let ends = |suffix: &str| name.ends_with(suffix.as_bytes());
        match () {
            () if ends(".ini") => Some(Self::Ini),
            () if ends(".xml") => Some(Self::Xml),
            () if ends(".yaml") || ends(".yml") => Some(Self::Yaml),
            () if ends(".json") || ends(".js") => Some(Self::Json),
            () => None,
        }
    }
}

/// The nine schemes; everything else is a path.
const SCHEMES: [&str; 9] = ["http", "exec", "fd", "sym", "section", "data", "call", "callint", "emperor"];

/// Splits off `scheme://`.
fn scheme(name: &[u8]) -> Option<(&'static str, &[u8])> {
    SCHEMES.iter().find_map(|scheme| {
        let rest = name.strip_prefix(scheme.as_bytes())?.strip_prefix(b"://")?;
        Some((*scheme, rest))
    })
}

/// Splits off `:SECTION` at the last colon; in an address the last one behind the last slash.
pub(super) fn split_section(name: &[u8]) -> (&[u8], Option<&[u8]>) {
    let from = match scheme(name) {
        Some(_) => name.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1),
        None => 0,
    };
    match name[from..].iter().rposition(|b| *b == b':') {
        Some(at) => (&name[..from + at], Some(&name[from + at + 1..])),
        None => (name, None),
    }
}

impl Engine<'_> {
    /// `include`, `inherit` (`word` says which) and bare arguments: such a file is never the main one.
    pub(super) fn load_by_extension(&mut self, word: &'static str, name: &[u8], by: &Origin) -> Step {
        let Some(format) = Format::of_name(name) else {
            return halt(by, Trouble::UnknownFormat(name.to_vec()));
        };
        self.templates += 1;
        let result = self.load(format, word, name, by);
        self.templates -= 1;
        result
    }

    /// Reads a file in the given format; its pairs land at the end of the list.
    pub(super) fn load(&mut self, format: Format, word: &'static str, name: &[u8], by: &Origin) -> Step {
        let depth = by.file_line().map_or(0, |(file, _)| file.depth + 1);
        if depth >= self.limits.depth {
            let text = format!("{} is loaded {depth} files deep: does it load itself?", lossy(name));
            return halt(by, Trouble::Endless(text));
        }
        self.count_read(by)?;
        let (file, asked) = split_section(name);
        let again = format == Format::Ini && file.is_empty() && asked.is_some();
        let given = match (again, &self.last_ini) {
            (false, _) => file.to_vec(),
            (true, Some(last)) => last.clone(),
            (true, None) => {
                let text =
                    format!("{} names a section of the last ini file, and none was read yet", lossy(name));
                return halt(by, Trouble::CommandLine(text));
            }
        };
        let absolute = self.settle_variables(&given, asked, again, by)?;
        if self.templates == 0 && self.main.is_none() {
            self.main = Some(self.own.clone());
        }
        self.announce(format, &given, asked, again);
        if format == Format::Ini {
            self.last_ini = Some(given.clone());
        }
        let source = Arc::new(SourceFile {
            given: given.clone(),
            absolute,
            loaded_by: by.clone(),
            loaded_as: word,
            depth,
        });
        let section = asked.filter(|s| !s.is_empty()).unwrap_or(b"uwsgi");
        let text = self.text_of(format, section, &given, &source, by)?;
        self.parse(format, &text, asked, section, &source)
    }

    /// Finds the file and makes `%p` and its kin its own. Addresses and standard input change only `%o`.
    fn settle_variables(
        &mut self,
        given: &[u8],
        asked: Option<&[u8]>,
        again: bool,
        by: &Origin,
    ) -> Step<Option<std::path::PathBuf>> {
        let section = asked.unwrap_or_default().to_vec();
        let shown = if again { Vec::new() } else { given.to_vec() };
        if given == b"-" || scheme(given).is_some() {
            self.own = FileVars { given: shown, section, ..self.own.clone() };
            return Ok(None);
        }
        match self.world.locate(given) {
            Ok(found) => {
                let path = found.path.as_os_str().as_bytes().to_vec();
                self.own = FileVars { given: shown, section, path, inode: found.inode };
                Ok(Some(found.path))
            }
            Err(error) => halt(by, Trouble::NoFile { name: given.to_vec(), error }),
        }
    }

    fn announce(&mut self, format: Format, given: &[u8], asked: Option<&[u8]>, again: bool) {
        let kind: &[u8] = match format {
            _ if again => return,
            Format::Ini => b"INI",
            Format::Yaml => b"YAML",
            Format::Json => b"JSON",
            Format::Xml => {
                if let Some(id) = asked {
                    self.output.say(&[b"[uWSGI] using xml uwsgi id: ", id]);
                }
                return self.output.say(&[b"[uWSGI] parsing config file ", given]);
            }
        };
        self.output.say(&[b"[uWSGI] getting ", kind, b" configuration from ", given]);
    }

    /// The text of a file with what is injected around it, after `%x` was replaced.
    fn text_of(
        &mut self,
        format: Format,
        section: &[u8],
        given: &[u8],
        source: &Arc<SourceFile>,
        by: &Origin,
    ) -> Step<Text> {
        let mut pieces = Vec::new();
        for (names, behind) in [(self.inject_before.clone(), false), (self.inject_after.clone(), true)] {
            if behind {
                let raw = self.read_source(given, by)?;
                if let Some(texts) = &mut self.texts {
                    let section = section.to_vec();
                    let file = Arc::clone(source);
                    texts.push(ReadText {
                        file,
                        format,
                        section,
                        raw: raw.clone(),
                        dropped: Vec::new(),
                        stopped: None,
                    });
                }
                pieces.push((Arc::clone(source), raw));
            }
            for name in names {
                let loaded_as = if behind { "inject-after" } else { "inject-before" };
                let file = SourceFile {
                    given: name.clone(),
                    absolute: None,
                    loaded_by: by.clone(),
                    loaded_as,
                    depth: source.depth,
                };
                self.count_read(by)?;
                pieces.push((Arc::new(file), self.read_source(&name, by)?));
            }
        }
        let around = Around(self);
        let main = self.main.clone().unwrap_or_default();
        Ok(Text::new(pieces, &self.own, &main, &around))
    }

    fn parse(
        &mut self,
        format: Format,
        text: &Text,
        asked: Option<&[u8]>,
        section: &[u8],
        source: &Arc<SourceFile>,
    ) -> Step {
        let whole = &Origin::line(source, 0);
        let mut lines = text.lines();
        match format {
            Format::Ini => {
                let count = ini::read(&text.bytes, section, |at, key, value| {
                    self.push(key, Some(value), lines.origin(at))
                })?;
                if count == 0 {
                    self.output.say(&[
                        b"*** WARNING: Can't find section \"",
                        section,
                        b"\" in INI configuration file ",
                        &source.given,
                        b" ***",
                    ]);
                }
                Ok(())
            }
            Format::Yaml => {
                let result = yaml::read(&text.bytes, section, |at, key, value| {
                    self.push(key, Some(value), lines.origin(at))
                });
                let remarks = result.or_else(|failed| end(failed, &mut lines, whole))?;
                if remarks.stopped.is_some() {
                    self.output.say(&[b"unsupported YAML token 21 in ", section, b" block"]);
                }
                if let Some(kept) =
                    self.texts.iter_mut().flatten().rfind(|kept| Arc::ptr_eq(&kept.file, source))
                {
                    kept.dropped = remarks.dropped.iter().map(|at| lines.origin(*at)).collect();
                    kept.stopped = remarks.stopped.map(|at| lines.origin(at));
                }
                Ok(())
            }
            Format::Json => json::read(&text.bytes, section, |at, key, value| {
                self.push(key, Some(value), lines.origin(at))
            })
            .or_else(|failed| end(failed, &mut lines, whole)),
            Format::Xml => {
                xml::read(&text.bytes, asked, |at, key, value| self.push(key, Some(value), lines.origin(at)))
                    .or_else(|failed| end(failed, &mut lines, whole))
            }
        }
    }

    /// The text that `@(name)` stands for.
    pub(super) fn bring_in(&mut self, name: &[u8], origin: &Origin) -> Step<Vec<u8>> {
        self.count_read(origin)?;
        let mut text = self.read_source(name, origin)?;
        text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
        if matches!(text.last(), Some(b'\n' | b'\r')) {
            text.pop();
        }
        Ok(text)
    }

    /// The bytes of a path, of standard input, or of an address.
    fn read_source(&mut self, name: &[u8], by: &Origin) -> Step<Vec<u8>> {
        let most = self.limits.file_bytes;
        let result = match scheme(name) {
            None if name == b"-" => self.world.read_stdin(most),
            None => self.world.read(name, most),
            Some(("exec", command)) => {
                let environment: Vec<(&[u8], &[u8])> =
                    self.environment.iter().map(|(name, value)| (&name[..], &value[..])).collect();
                self.world.run(command, &environment, most)
            }
            Some(("http", _)) => self.world.fetch(&String::from_utf8_lossy(name), most),
            Some(("fd", number)) => self.world.read_descriptor(super::values::atoi(Some(number)), most),
            Some(("emperor", _)) => self.world.sent(),
            Some((scheme, rest)) => {
                let text = match scheme {
                    "sym" => format!("unable to find symbol _binary_{}_start", lossy(rest)),
                    _ => format!("{scheme}:// asks for a part of uwsgi's own program; there is none here"),
                };
                return halt(by, Trouble::Syntax(text));
            }
        };
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none() =>
            {
                return halt(
                    by,
                    Trouble::Refused {
                        name: name.to_vec(),
                        reason: "this check runs nothing and asks nobody",
                    },
                );
            }
            Err(error) => return halt(by, Trouble::Unreadable { name: name.to_vec(), error }),
        };
        self.bytes += bytes.len();
        if self.bytes > self.limits.total_bytes {
            return halt(by, Trouble::TooMuch("the configuration is too large".into()));
        }
        Ok(bytes)
    }
}

/// What a reader's end means, with the place of the text where that is known.
fn end<T>(failed: Failed<Halt>, lines: &mut super::magic::Lines<'_>, whole: &Origin) -> Step<T> {
    match failed {
        Failed::Each(halt) => Err(halt),
        Failed::Syntax(None, why) => halt(whole, Trouble::Syntax(why)),
        Failed::Syntax(Some(at), why) => halt(&lines.origin(at), Trouble::Syntax(why)),
    }
}

/// The variables that do not depend on a file.
struct Around<'e, 'w>(&'e Engine<'w>);

impl Surroundings for Around<'_, '_> {
    fn put(&self, letter: u8, out: &mut Vec<u8>) {
        let world = self.0.world;
        let (uid, gid) = if matches!(letter, b'u' | b'U' | b'g' | b'G') { world.ids() } else { (0, 0) };
        let name = |name: Option<Vec<u8>>, id: u32| name.unwrap_or_else(|| id.to_string().into_bytes());
        out.extend(match letter {
            b'v' => world.directory().into_os_string().into_vec(),
            b'V' => env!("CARGO_PKG_VERSION").into(),
            b'h' => world.host_name(),
            b'k' => world.cpus().to_string().into_bytes(),
            b't' => world.started().as_secs().to_string().into_bytes(),
            b'T' => world.started().as_micros().to_string().into_bytes(),
            b'u' => uid.to_string().into_bytes(),
            b'g' => gid.to_string().into_bytes(),
            b'U' => name(world.user_name(uid), uid),
            b'G' => name(world.group_name(gid), gid),
            b'b' => world.program().into_os_string().into_vec(),
            _ => Vec::new(),
        });
    }
}
