//! `%x` in the text of a file: replaced in one go before anything is parsed, so it can make, join or lose lines.
//! The text remembers which line of which file each of its bytes came from.

use super::model::{Origin, SourceFile};
use std::sync::Arc;

/// The variables that belong to one file.
#[derive(Clone, Debug, Default)]
pub(super) struct FileVars {
    /// `%o`: the name as given, without a section.
    pub given: Vec<u8>,
    /// `%x`: the section as given.
    pub section: Vec<u8>,
    /// `%p`: the absolute path.
    pub path: Vec<u8>,
    /// `%i`: the inode of that path.
    pub inode: u64,
}

impl FileVars {
    fn directory(&self) -> &[u8] {
        self.path.iter().rposition(|b| *b == b'/').map_or(&[][..], |at| &self.path[..=at])
    }

    fn name(&self) -> &[u8] {
        &self.path[self.directory().len()..]
    }

    fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.directory().split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// The value of a lower-case file variable.
    fn put(&self, letter: u8, out: &mut Vec<u8>) {
        let name = self.name();
        let dot = name.iter().rposition(|b| *b == b'.');
        match letter {
            b'p' => out.extend_from_slice(&self.path),
            b's' => out.extend_from_slice(name),
            b'n' => out.extend_from_slice(&name[..dot.unwrap_or(name.len())]),
            b'e' => out.extend_from_slice(dot.map_or(&[], |dot| &name[dot + 1..])),
            b'd' => out.extend_from_slice(self.directory()),
            b'c' => out.extend_from_slice(self.components().last().unwrap_or_default()),
            b'o' => out.extend_from_slice(&self.given),
            b'x' => out.extend_from_slice(&self.section),
            b'i' if !self.path.is_empty() => out.extend_from_slice(inode_text(self.inode).as_bytes()),
            b'j' if !self.path.is_empty() => out.extend_from_slice(hash_text(&self.path).as_bytes()),
            b'0'..=b'9' => {
                out.extend_from_slice(self.components().nth(usize::from(letter - b'0')).unwrap_or_default());
            }
            _ => {}
        }
    }
}

/// The inode as a signed number of 32 bits, which is how it is printed.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "that is how it is printed")]
fn inode_text(inode: u64) -> String {
    (inode as u32 as i32).to_string()
}

/// A hash of 32 bits, its four bytes low first.
fn hash_text(path: &[u8]) -> String {
    let hash = path.iter().fold(5381_u32, |h, b| h.wrapping_mul(33) ^ u32::from(*b));
    hash.to_le_bytes().iter().map(|b| format!("{b:02X}")).collect()
}

/// Values that do not depend on the file: asked for only when a text mentions them.
pub(super) trait Surroundings {
    /// Appends the value of `%letter`; nothing for a letter without meaning.
    fn put(&self, letter: u8, out: &mut Vec<u8>);
}

/// A text ready to be parsed, and where its lines came from.
#[derive(Debug)]
pub(super) struct Text {
    pub bytes: Vec<u8>,
    /// From this offset on lines are counted in that file from that line; ascending.
    marks: Vec<(usize, usize, u32)>,
    files: Vec<Arc<SourceFile>>,
}

impl Text {
    /// Substitutes in the given pieces, each a file of its own.
    pub(super) fn new(
        pieces: Vec<(Arc<SourceFile>, Vec<u8>)>,
        own: &FileVars,
        main: &FileVars,
        around: &dyn Surroundings,
    ) -> Self {
        let mut text = Self { bytes: Vec::new(), marks: Vec::new(), files: Vec::new() };
        let mut carried = false; // a piece ended in `%`, whose letter is the first byte of the next
        for (file, raw) in pieces {
            text.marks.push((text.bytes.len(), text.files.len(), 1));
            text.files.push(file);
            if text.bytes.is_empty() && !raw.contains(&b'%') {
                text.bytes = raw;
                continue;
            }
            carried = text.substitute(&raw, carried, own, main, around);
        }
        text
    }

    fn substitute(
        &mut self,
        raw: &[u8],
        carried: bool,
        own: &FileVars,
        main: &FileVars,
        around: &dyn Surroundings,
    ) -> bool {
        self.bytes.reserve(raw.len());
        let mut line = 1;
        let mut magic = carried;
        for byte in raw {
            line += u32::from(*byte == b'\n');
            if !magic {
                if *byte == b'%' {
                    magic = true;
                } else {
                    self.bytes.push(*byte);
                }
                continue;
            }
            magic = false;
            let before = self.bytes.len();
            match byte {
                b'%' => self.bytes.push(b'%'),
                b'(' => self.bytes.extend_from_slice(b"%("),
                b'[' => self.bytes.push(0x1b),
                b'p' | b's' | b'n' | b'e' | b'd' | b'c' | b'o' | b'x' | b'i' | b'j' | b'0'..=b'9' => {
                    own.put(*byte, &mut self.bytes);
                }
                b'P' | b'S' | b'N' | b'E' | b'D' | b'C' | b'O' | b'X' | b'I' | b'J' => {
                    main.put(byte.to_ascii_lowercase(), &mut self.bytes);
                }
                _ => around.put(*byte, &mut self.bytes),
            }
            // Lines are counted by newlines in the output: say so where the two counts part.
            if *byte == b'\n' || self.bytes[before..].contains(&b'\n') {
                self.marks.push((self.bytes.len(), self.files.len() - 1, line));
            }
        }
        magic
    }

    /// A pointer that tells lines; cheap when asked in ascending order.
    pub(super) fn lines(&self) -> Lines<'_> {
        Lines { text: self, mark: 0, offset: 0, line: 1 }
    }
}

/// Where bytes of a [`Text`] came from.
pub(super) struct Lines<'t> {
    text: &'t Text,
    mark: usize,
    offset: usize,
    line: u32,
}

impl Lines<'_> {
    /// The origin of the byte at `offset`.
    pub(super) fn origin(&mut self, offset: usize) -> Origin {
        let marks = &self.text.marks;
        if offset < self.offset {
            (self.mark, self.offset, self.line) = (0, 0, 1);
        }
        while marks.get(self.mark + 1).is_some_and(|m| m.0 <= offset) {
            self.mark += 1;
            (self.offset, _, self.line) = marks[self.mark];
        }
        let passed = &self.text.bytes[self.offset.min(offset)..offset.min(self.text.bytes.len())];
        self.line += u32::try_from(passed.iter().filter(|b| **b == b'\n').count()).unwrap_or(u32::MAX);
        self.offset = offset;
        let file = marks.get(self.mark).map_or(0, |m| m.1);
        self.text.files.get(file).map_or_else(Origin::default, |f| Origin::line(f, self.line))
    }
}
