//! Tokens of YAML 1.1. Source: yaml.org/spec/1.1, with libyaml's limits (a simple key ends within 1024 characters and
//! on its line) and its messages.

use std::collections::VecDeque;

/// A token; what the walk does not tell apart is `Other`.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Token {
    StreamEnd,
    BlockSequenceStart,
    BlockMappingStart,
    BlockEnd,
    FlowSequenceStart,
    FlowSequenceEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Scalar(String),
    /// Flow mappings, anchors, aliases, tags, directives, document marks.
    Other,
}

/// Where a token cannot be made, and why.
pub(super) type Fault = (usize, &'static str);

/// A place in the text.
#[derive(Clone, Copy, Default)]
pub(super) struct Mark {
    pub offset: usize,
    pub letters: usize,
    pub line: usize,
    pub column: usize,
}

/// Something that becomes a key if a `:` follows soon.
#[derive(Clone, Copy)]
struct Candidate {
    /// It stands where a block mapping needs a key.
    required: bool,
    /// The number of its first token.
    token: usize,
    mark: Mark,
}

pub(super) struct Scanner<'t> {
    pub(super) text: &'t str,
    pub(super) mark: Mark,
    queue: VecDeque<(usize, Token)>,
    /// Tokens handed out.
    taken: usize,
    /// The column of the block we are in, or -1; and those around it.
    pub(super) indent: isize,
    indents: Vec<isize>,
    /// One for the block context and one for each open bracket.
    candidates: Vec<Option<Candidate>>,
    /// A key may begin here.
    pub(super) key_allowed: bool,
    ended: bool,
}

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            mark: Mark::default(),
            queue: VecDeque::new(),
            taken: 0,
            indent: -1,
            indents: Vec::new(),
            candidates: vec![None],
            key_allowed: true,
            ended: false,
        }
    }

    /// The next token and its offset; after the end, the end again.
    pub(super) fn next(&mut self) -> Result<(usize, Token), Fault> {
        while self.needs_more()? && !self.ended {
            self.fetch()?;
        }
        self.taken += 1;
        Ok(self.queue.pop_front().unwrap_or((self.mark.offset, Token::StreamEnd)))
    }

    /// A token may only leave when no key can be put before it any more.
    fn needs_more(&mut self) -> Result<bool, Fault> {
        if self.queue.is_empty() {
            return Ok(true);
        }
        self.drop_stale()?;
        Ok(self.candidates.iter().flatten().any(|c| c.token == self.taken))
    }

    fn drop_stale(&mut self) -> Result<(), Fault> {
        let here = self.mark;
        for slot in &mut self.candidates {
            if slot.is_some_and(|c| c.mark.line < here.line || c.mark.letters + KEY_LENGTH < here.letters) {
                if slot.is_some_and(|c| c.required) {
                    return Err((here.offset, NO_COLON));
                }
                *slot = None;
            }
        }
        Ok(())
    }

    fn fetch(&mut self) -> Result<(), Fault> {
        self.skip_to_token();
        self.drop_stale()?;
        self.leave_blocks(self.column());
        let start = self.mark.offset;
        if self.at_document_mark() {
            self.leave_blocks(-1);
            self.drop_candidate()?;
            self.key_allowed = false;
            self.advance(3);
            return self.put(start, Token::Other);
        }
        let blank_behind = is_blank_or_end(self.peek(1));
        let flow = self.in_flow();
        let Some(letter) = self.peek(0) else { return self.end() };
        match letter {
            '%' if self.mark.column == 0 => self.directive(),
            '[' => self.open_flow(Token::FlowSequenceStart),
            '{' => self.open_flow(Token::Other),
            ']' => self.close_flow(Token::FlowSequenceEnd),
            '}' => self.close_flow(Token::Other),
            ',' => {
                self.drop_candidate()?;
                self.key_allowed = true;
                self.advance(1);
                self.put(start, Token::FlowEntry)
            }
            '-' if blank_behind => self.block_entry(),
            '?' if flow || blank_behind => self.explicit_key(),
            ':' if flow || blank_behind => self.value(),
            '*' | '&' | '!' => self.property(letter),
            '|' | '>' if !flow => {
                self.drop_candidate()?;
                self.key_allowed = true;
                let text = self.block_scalar(letter == '|')?;
                self.put(start, Token::Scalar(text))
            }
            '\'' | '"' => {
                self.save_candidate()?;
                self.key_allowed = false;
                let text = self.quoted_scalar(letter)?;
                self.put(start, Token::Scalar(text))
            }
            _ if self.begins_plain(letter, blank_behind) => {
                self.save_candidate()?;
                self.key_allowed = false;
                let text = self.plain_scalar()?;
                self.put(start, Token::Scalar(text))
            }
            _ => Err((start, "found character that cannot start any token")),
        }
    }

    fn begins_plain(&self, letter: char, blank_behind: bool) -> bool {
        match letter {
            '-' => !matches!(self.peek(1), Some(' ' | '\t')),
            '?' | ':' => !self.in_flow() && !blank_behind,
            _ => !is_blank_or_end(Some(letter)) && !",[]{}#&*!|>'\"%@`".contains(letter),
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        if self.mark.column != 0 {
            self.mark.line += 1;
            self.mark.column = 0;
        }
        self.leave_blocks(-1);
        self.drop_candidate()?;
        self.ended = true;
        self.put(self.mark.offset, Token::StreamEnd)
    }

    fn directive(&mut self) -> Result<(), Fault> {
        let start = self.mark.offset;
        self.leave_blocks(-1);
        self.drop_candidate()?;
        self.key_allowed = false;
        let rest = &self.text[start + 1..];
        let line = rest.split(['\n', '\r']).next().unwrap_or_default();
        let line = line.split(" #").next().unwrap_or_default();
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let known = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("YAML"), Some(version), None, None) => {
                let is_number = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
                version.split_once('.').is_some_and(|(major, minor)| is_number(major) && is_number(minor))
            }
            (Some("TAG"), Some(handle), Some(_), None) => handle.starts_with('!'),
            _ => false,
        };
        if !known {
            return Err((start, "found an unknown or malformed directive"));
        }
        while !is_break_or_end(self.peek(0)) {
            self.advance(1);
        }
        // Its line end belongs to it, so no key may begin on the next line.
        if is_break(self.peek(0)) {
            self.take_break();
        }
        self.put(start, Token::Other)
    }

    fn open_flow(&mut self, token: Token) -> Result<(), Fault> {
        let start = self.mark.offset;
        self.save_candidate()?;
        if self.candidates.len() > DEPTH {
            return Err((start, "nested too deep"));
        }
        self.candidates.push(None);
        self.key_allowed = true;
        self.advance(1);
        self.put(start, token)
    }

    fn close_flow(&mut self, token: Token) -> Result<(), Fault> {
        let start = self.mark.offset;
        self.drop_candidate()?;
        if self.in_flow() {
            self.candidates.pop();
        }
        self.key_allowed = false;
        self.advance(1);
        self.put(start, token)
    }

    fn block_entry(&mut self) -> Result<(), Fault> {
        let start = self.mark.offset;
        if !self.in_flow() {
            if !self.key_allowed {
                return Err((start, "block sequence entries are not allowed in this context"));
            }
            self.enter_block(self.column(), None, Token::BlockSequenceStart)?;
        }
        self.drop_candidate()?;
        self.key_allowed = true;
        self.advance(1);
        self.put(start, Token::BlockEntry)
    }

    fn explicit_key(&mut self) -> Result<(), Fault> {
        let start = self.mark.offset;
        if !self.in_flow() {
            if !self.key_allowed {
                return Err((start, "mapping keys are not allowed in this context"));
            }
            self.enter_block(self.column(), None, Token::BlockMappingStart)?;
        }
        self.drop_candidate()?;
        self.key_allowed = !self.in_flow();
        self.advance(1);
        self.put(start, Token::Key)
    }

    fn value(&mut self) -> Result<(), Fault> {
        let start = self.mark.offset;
        if let Some(key) = self.candidates.last_mut().and_then(Option::take) {
            let at = key.token - self.taken;
            self.queue.insert(at, (key.mark.offset, Token::Key));
            let column = isize::try_from(key.mark.column).unwrap_or(isize::MAX);
            self.enter_block(column, Some((at, key.mark.offset)), Token::BlockMappingStart)?;
            self.key_allowed = false;
        } else {
            if !self.in_flow() {
                if !self.key_allowed {
                    return Err((start, "mapping values are not allowed in this context"));
                }
                self.enter_block(self.column(), None, Token::BlockMappingStart)?;
            }
            self.key_allowed = !self.in_flow();
        }
        self.advance(1);
        self.put(start, Token::Value)
    }

    /// An anchor, an alias or a tag.
    fn property(&mut self, letter: char) -> Result<(), Fault> {
        let start = self.mark.offset;
        self.save_candidate()?;
        self.key_allowed = false;
        self.advance(1);
        if letter == '!' {
            while !(is_blank_or_end(self.peek(0)) || self.in_flow() && self.peek(0) == Some(',')) {
                self.advance(1);
            }
            return self.put(start, Token::Other);
        }
        let mut length = 0;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            self.advance(1);
            length += 1;
        }
        let ends = is_blank_or_end(self.peek(0)) || self.peek(0).is_some_and(|c| "?:,]}%@`".contains(c));
        if length == 0 || !ends {
            return Err((start, "did not find expected alphabetic or numeric character"));
        }
        self.put(start, Token::Other)
    }

    /// Blanks, comments and line ends. A TAB is a blank only where no key may begin.
    fn skip_to_token(&mut self) {
        if self.mark.letters == 0 && self.peek(0) == Some('\u{feff}') {
            self.advance(1);
            self.mark.column = 0;
        }
        loop {
            while match self.peek(0) {
                Some(' ') => true,
                Some('\t') => self.in_flow() || !self.key_allowed,
                _ => false,
            } {
                self.advance(1);
            }
            if self.peek(0) == Some('#') {
                while !is_break_or_end(self.peek(0)) {
                    self.advance(1);
                }
            }
            if !is_break(self.peek(0)) {
                return;
            }
            self.take_break();
            if !self.in_flow() {
                self.key_allowed = true;
            }
        }
    }

    fn save_candidate(&mut self) -> Result<(), Fault> {
        if !self.key_allowed {
            return Ok(());
        }
        let required = !self.in_flow() && self.indent == self.column();
        self.drop_candidate()?;
        let candidate = Candidate { required, token: self.taken + self.queue.len(), mark: self.mark };
        if let Some(slot) = self.candidates.last_mut() {
            *slot = Some(candidate);
        }
        Ok(())
    }

    fn drop_candidate(&mut self) -> Result<(), Fault> {
        match self.candidates.last_mut().and_then(Option::take) {
            Some(candidate) if candidate.required => Err((self.mark.offset, NO_COLON)),
            _ => Ok(()),
        }
    }

    fn enter_block(&mut self, column: isize, at: Option<(usize, usize)>, token: Token) -> Result<(), Fault> {
        if self.in_flow() || self.indent >= column {
            return Ok(());
        }
        if self.indents.len() > DEPTH {
            return Err((self.mark.offset, "nested too deep"));
        }
        self.indents.push(self.indent);
        self.indent = column;
        match at {
            Some((at, offset)) => self.queue.insert(at, (offset, token)),
            None => self.queue.push_back((self.mark.offset, token)),
        }
        Ok(())
    }

    fn leave_blocks(&mut self, column: isize) {
        while !self.in_flow() && self.indent > column {
            self.queue.push_back((self.mark.offset, Token::BlockEnd));
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }

    fn put(&mut self, at: usize, token: Token) -> Result<(), Fault> {
        self.queue.push_back((at, token));
        Ok(())
    }

    pub(super) fn in_flow(&self) -> bool {
        self.candidates.len() > 1
    }

    pub(super) fn column(&self) -> isize {
        isize::try_from(self.mark.column).unwrap_or(isize::MAX)
    }

    pub(super) fn peek(&self, ahead: usize) -> Option<char> {
        self.text[self.mark.offset..].chars().nth(ahead)
    }

    pub(super) fn at_document_mark(&self) -> bool {
        let rest = &self.text[self.mark.offset..];
        self.mark.column == 0
            && (rest.starts_with("---") || rest.starts_with("..."))
            && is_blank_or_end(self.peek(3))
    }

    pub(super) fn advance(&mut self, letters: usize) {
        for _ in 0..letters {
            let Some(letter) = self.peek(0) else { return };
            self.mark.offset += letter.len_utf8();
            self.mark.letters += 1;
            self.mark.column += 1;
        }
    }

    /// Takes a line end; CR LF is one.
    pub(super) fn take_break(&mut self) -> &'static str {
        let first = self.peek(0);
        self.advance(1);
        if first == Some('\r') && self.peek(0) == Some('\n') {
            self.advance(1);
        }
        self.mark.line += 1;
        self.mark.column = 0;
        match first {
            Some('\u{2028}') => "\u{2028}",
            Some('\u{2029}') => "\u{2029}",
            _ => "\n",
        }
    }
}

pub(super) fn is_break(letter: Option<char>) -> bool {
    matches!(letter, Some('\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}'))
}

pub(super) fn is_break_or_end(letter: Option<char>) -> bool {
    letter.is_none() || is_break(letter)
}

pub(super) fn is_blank_or_end(letter: Option<char>) -> bool {
    matches!(letter, Some(' ' | '\t')) || is_break_or_end(letter)
}

const NO_COLON: &str = "could not find expected ':'";
/// The longest simple key. Source: yaml.org/spec/1.1 7.4.
const KEY_LENGTH: usize = 1024;
/// Deeper nesting than this is an error.
const DEPTH: usize = 128;
