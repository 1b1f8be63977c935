//! One component of a path pattern, over bytes, as glob(7) has it.
//!
//! The `glob` crate passes over names that are not UTF-8 and knows no backslash; a vassal's name is bytes.

/// What a name within one directory has to look like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Level {
    /// Every name, also one with a leading dot: `dir://`.
    Any,
    /// This name.
    Literal(Box<[u8]>),
    /// A component with `*`, `?` or `[…]`.
    Pattern(Box<[u8]>),
}

impl Level {
    /// Reads one component: a pattern when it holds an unescaped wildcard, else the name it stands for.
    pub(super) fn parse(component: &[u8]) -> Self {
        if has_wildcard(component) {
            Self::Pattern(component.into())
        } else {
            Self::Literal(unescape(component).into())
        }
    }

    pub(super) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Literal(literal) => **literal == *name,
            Self::Pattern(pattern) => {
                (name.first() != Some(&b'.') || pattern.first() == Some(&b'.')) && matches(pattern, name)
            }
        }
    }
}

/// Whether the text holds `*`, `?` or `[` without a backslash before it.
pub(super) fn has_wildcard(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

/// The text with its backslashes taken away, each standing for the byte after it.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
    out
}

/// Linear but for `*`, where only the last one is ever tried again: no pattern takes exponential time.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() || p < pattern.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
            continue;
        }
        if let (Some(byte), Some(step)) = (name.get(n), pattern.get(p).map(|_| one(&pattern[p..])))
            && step.1.accepts(*byte)
        {
            p += step.0;
            n += 1;
            continue;
        }
        match star {
            Some((at, from)) if from < name.len() => {
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
            _ => return false,
        }
    }
    true
}

/// What one byte of the name is compared with.
enum One<'a> {
    Byte(u8),
    Every,
    Set { negated: bool, members: &'a [u8] },
}

impl One<'_> {
    fn accepts(&self, byte: u8) -> bool {
        match self {
            One::Byte(wanted) => *wanted == byte,
            One::Every => true,
            One::Set { negated, members } => set_holds(members, byte) != *negated,
        }
    }
}

/// The first element of a pattern that is not empty and does not begin with `*`, and its length.
fn one(pattern: &[u8]) -> (usize, One<'_>) {
    match pattern[0] {
        b'?' => (1, One::Every),
        b'\\' if pattern.len() > 1 => (2, One::Byte(pattern[1])),
        b'[' => set(pattern).unwrap_or((1, One::Byte(b'['))), // without its end it is a plain bracket
        byte => (1, One::Byte(byte)),
    }
}

fn set(pattern: &[u8]) -> Option<(usize, One<'_>)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    let mut at = first;
    loop {
        match pattern.get(at)? {
            b']' if at > first => {
                return Some((at + 1, One::Set { negated, members: &pattern[first..at] }));
            }
            b'[' if pattern.get(at + 1) == Some(&b':') => {
                let end = pattern[at..].windows(2).position(|pair| pair == b":]");
                at += end.map_or(1, |end| end + 2);
            }
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn set_holds(members: &[u8], byte: u8) -> bool {
    let mut rest = members;
    while !rest.is_empty() {
        if let Some(class) = rest.strip_prefix(b"[:")
            && let Some(end) = class.windows(2).position(|pair| pair == b":]")
        {
            if class_holds(&class[..end], byte) {
                return true;
            }
            rest = &class[end + 2..];
            continue;
        }
        let (low, after) = member(rest);
        if after.len() > 1 && after[0] == b'-' {
            let (high, after) = member(&after[1..]);
            if (low..=high).contains(&byte) {
                return true;
            }
            rest = after;
        } else {
            if low == byte {
                return true;
            }
            rest = after;
        }
    }
    false
}

fn member(rest: &[u8]) -> (u8, &[u8]) {
    if rest[0] == b'\\' && rest.len() > 1 { (rest[1], &rest[2..]) } else { (rest[0], &rest[1..]) }
}

fn class_holds(class: &[u8], byte: u8) -> bool {
    match class {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => byte == b' ' || byte == b'\t',
        b"digit" => byte.is_ascii_digit(),
        b"lower" => byte.is_ascii_lowercase(),
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        Level::parse(pattern.as_bytes()).matches(name.as_bytes())
    }

    #[test]
    fn wildcards_match_as_in_a_shell() {
        for (pattern, name) in [
            ("*.ini", "a.ini"),
            ("*", "a"),
            ("a?c", "abc"),
            ("[ab].ini", "b.ini"),
            ("[a-c]x", "cx"),
            ("[!a-c]x", "dx"),
            ("[^a]", "b"),
            ("[]]", "]"),
            ("[]-]", "-"),
            ("[[:digit:]x]*", "7up"),
            ("*a*b*c", "xaybzc"),
            ("**", "anything"),
            ("a[", "a["),
            ("\\*", "*"),
            ("a\\[1\\]", "a[1]"),
            ("[\\]]", "]"),
            (".*", ".hidden"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.ini", "a.yml"),
            ("?", ""),
            ("a?c", "ac"),
            ("[!a]", "a"),
            ("[a-c]", "d"),
            ("*a*b*c", "xaybz"),
            ("\\*", "x"),
            ("abc", "abcd"),
            ("[[:digit:]]", "x"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_wildcard_does_not_match_a_leading_dot() {
        assert!(!fits("*", ".hidden"));
        assert!(!fits("?x", ".x"));
        assert!(!fits("[.]x", ".x"));
        assert!(Level::Any.matches(b".hidden"));
    }

    #[test]
    fn bytes_that_are_not_text_match() {
        assert!(Level::parse(b"*.ini").matches(b"\xff\xfe.ini"));
        assert!(Level::parse(b"?").matches(b"\x80"));
    }

    #[test]
    fn many_stars_do_not_take_exponential_time() {
        let pattern = "a*".repeat(60) + "b";
        let name = "a".repeat(250);
        assert!(!fits(&pattern, &name));
    }
}
