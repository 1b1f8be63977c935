//! The content type that belongs to the suffix of a file's name.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where Debian's `media-types` puts its table; uWSGI reads the same one.
const SYSTEM_TABLE: &str = "/etc/mime.types";

/// What a web page is made of, for machines without a table.
const BUILT_IN: &str = "\
text/html html htm
text/css css
text/javascript js mjs
text/plain txt
application/xml xml
text/csv csv
text/markdown md markdown
application/json json
application/wasm wasm
application/pdf pdf
application/gzip gz
application/zip zip
image/svg+xml svg
image/png png
image/jpeg jpg jpeg
image/gif gif
image/webp webp
image/avif avif
image/vnd.microsoft.icon ico
font/woff woff
font/woff2 woff2
font/ttf ttf
font/otf otf
audio/mpeg mp3
audio/ogg ogg
video/mp4 mp4
video/webm webm
";

/// Content types by suffix.
#[derive(Debug)]
pub(super) struct Types(HashMap<Box<[u8]>, Box<str>>);

impl Types {
    /// The table of this machine, or the built-in one where there is none.
    pub(super) fn of_this_machine() -> Self {
        match fs::read(SYSTEM_TABLE) {
            Ok(table) => Self::parse(&String::from_utf8_lossy(&table)),
            Err(_) => Self::parse(BUILT_IN),
        }
    }

    /// Each line is a type and the suffixes it belongs to; what follows a `#` is a comment. The first line
    /// that names a suffix counts.
    fn parse(table: &str) -> Self {
        let mut types = HashMap::new();
        for line in table.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(kind) = words.next() else { continue };
            for suffix in words {
                types.entry(suffix.as_bytes().into()).or_insert_with(|| kind.into());
            }
        }
        Self(types)
    }

    /// The type of a file by its name, as it is written: `A.HTML` has none.
    pub(super) fn of(&self, path: &Path) -> Option<&str> {
        let suffix = path.file_name()?.as_bytes().rsplit(|byte| *byte == b'.').next()?;
        self.0.get(suffix).map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_has_the_type_of_the_first_line_that_names_it() {
        let types = Types::parse("# table\ntext/html\thtml htm # pages\nimage/png\n\ntext/other html\n");
        assert_eq!(types.of(Path::new("/x/index.html")), Some("text/html"));
        assert_eq!(types.of(Path::new("a.b.htm")), Some("text/html"));
        for nothing in ["page.HTML", "a.png", "a.#", "a.", "a"] {
            assert_eq!(types.of(Path::new(nothing)), None, "{nothing}");
        }
    }

    #[test]
    fn the_built_in_table_agrees_with_the_one_of_the_machine() {
        let Ok(table) = fs::read_to_string(SYSTEM_TABLE) else { return };
        let (ours, theirs) = (Types::parse(BUILT_IN), Types::parse(&table));
        for (suffix, kind) in &ours.0 {
            assert_eq!(theirs.0.get(suffix), Some(kind), "{}", String::from_utf8_lossy(suffix));
        }
    }
}
