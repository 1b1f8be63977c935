//! The json reader: objects keep their order and their duplicates, numbers keep their text.
//!
//! Our own, because serde_json can do neither comments nor the place of a member, and keeps the text of numbers only
//! by a feature that changes it for the whole program. Nothing is built but the pairs of the section.

use super::error::Failed;

/// Hands the members of the object named `section` to `each`, with the offset of their names.
pub(super) fn read<E>(
    text: &[u8],
    section: &[u8],
    mut each: impl FnMut(usize, &[u8], &[u8]) -> Result<(), E>,
) -> Result<(), Failed<E>> {
    let mut reader = Reader { text, at: 0 };
    // The whole text is read before the first pair is handed over: an error in its last line changes nothing.
    let found = reader.document(section).map_err(|why| {
        Failed::Syntax(Some(reader.at.min(text.len())), format!("error parsing JSON data: {why}"))
    })?;
    let Some(pairs) = found else {
        let name = String::from_utf8_lossy(section);
        return Err(Failed::Syntax(None, format!("you must define a object named {name} in your JSON data")));
    };
    pairs.iter().try_for_each(|(at, key, value)| each(*at, key, value)).map_err(Failed::Each)
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
}

type Pairs = Vec<(usize, Vec<u8>, Vec<u8>)>;
type Why = &'static str;
/// Takes a member whose value comes next: the offset of its name, the name, the depth.
type Member<'m, 't> = dyn FnMut(&mut Reader<'t>, usize, &[u8], usize) -> Result<(), Why> + 'm;

/// What one value was.
enum Value {
    /// Its text.
    Scalar(Vec<u8>),
    Array,
    Object,
}

impl<'t> Reader<'t> {
    /// The pairs of the section; `None` if there is no such object.
    fn document(&mut self, section: &[u8]) -> Result<Option<Pairs>, Why> {
        let mut found: Option<Option<Pairs>> = None;
        self.blanks()?;
        if self.peek() == Some(b'{') {
            self.members(0, &mut |reader, _, name, depth| {
                if found.is_some() || name != section {
                    return reader.value(depth, &mut |_, _| {}).map(|_| ());
                }
                if reader.peek() != Some(b'{') {
                    found = Some(None);
                    return reader.value(depth, &mut |_, _| {}).map(|_| ());
                }
                let mut pairs = Pairs::new();
                reader.members(depth, &mut |reader, at, name, depth| {
                    let key = name.to_vec();
                    let mut items = Pairs::new();
                    let value = reader.value(depth, &mut |_, item| items.push((at, key.clone(), item)))?;
                    match value {
                        Value::Scalar(value) => pairs.push((at, key, value)),
                        Value::Array => pairs.append(&mut items),
                        Value::Object => {}
                    }
                    Ok(())
                })?;
                found = Some(Some(pairs));
                Ok(())
            })?;
        } else {
            self.value(0, &mut |_, _| {})?;
        }
        self.blanks()?;
        if self.at < self.text.len() {
            return Err("trailing garbage");
        }
        Ok(found.flatten())
    }

    /// An object; `each` is called in front of every member's value.
    fn members(&mut self, depth: usize, each: &mut Member<'_, 't>) -> Result<(), Why> {
        if depth >= DEPTH {
            return Err("nested too deep");
        }
        self.at += 1;
        self.blanks()?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let at = self.at;
            if self.peek() != Some(b'"') {
                return Err("invalid object key (must be a string)");
            }
            let mut name = self.string()?;
            cut_at_nul(&mut name);
            self.blanks()?;
            if self.peek() != Some(b':') {
                return Err("object key and value must be separated by a colon (':')");
            }
            self.at += 1;
            self.blanks()?;
            each(self, at, &name, depth + 1)?;
            self.blanks()?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err("after key and value, inside map, I expect ',' or '}'"),
            }
            self.blanks()?;
        }
    }

    /// Any value. Of an array, strings, numbers, booleans and null go to `item`; what is deeper is skipped.
    fn value(&mut self, depth: usize, item: &mut dyn FnMut(usize, Vec<u8>)) -> Result<Value, Why> {
        match self.peek() {
            None => Err("premature EOF"),
            Some(b'"') => {
                let mut text = self.string()?;
                cut_at_nul(&mut text);
                Ok(Value::Scalar(text))
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Scalar),
            Some(b'{') => {
                self.members(depth, &mut |reader, _, _, depth| {
                    reader.value(depth, &mut |_, _| {}).map(|_| ())
                })?;
                Ok(Value::Object)
            }
            Some(b'[') => {
                self.array(depth, item)?;
                Ok(Value::Array)
            }
            Some(_) => {
                for (word, value) in [("true", "1"), ("false", "0"), ("null", "0")] {
                    if self.text[self.at..].starts_with(word.as_bytes()) {
                        self.at += word.len();
                        return Ok(Value::Scalar(value.into()));
                    }
                }
                Err("invalid char in json text")
            }
        }
    }

    fn array(&mut self, depth: usize, item: &mut dyn FnMut(usize, Vec<u8>)) -> Result<(), Why> {
        if depth >= DEPTH {
            return Err("nested too deep");
        }
        self.at += 1;
        self.blanks()?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let at = self.at;
            if let Value::Scalar(text) = self.value(depth + 1, &mut |_, _| {})? {
                item(at, text);
            }
            self.blanks()?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err("after array element, I expect ',' or ']'"),
            }
            self.blanks()?;
        }
    }

    fn number(&mut self) -> Result<Vec<u8>, Why> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("malformed number, a digit is required after the minus sign")?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("malformed number, a digit is required after the decimal point")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("malformed number, a digit is required after the exponent")?;
        }
        Ok(self.text[start..self.at].to_vec())
    }

    fn digits(&mut self, why: Why) -> Result<(), Why> {
        let count = self.text[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(why) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<Vec<u8>, Why> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.iter().take_while(|b| !matches!(b, b'"' | b'\\') && **b >= b' ').count();
            let Ok(text) = std::str::from_utf8(&rest[..plain]) else {
                return Err("invalid bytes in UTF8 string");
            };
            out.extend_from_slice(text.as_bytes());
            self.at += plain;
            match self.peek() {
                None => return Err("premature EOF"),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => self.escape(&mut out)?,
                Some(_) => return Err("invalid character inside string"),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), Why> {
        let letter = self.text.get(self.at + 1).copied();
        self.at += 2;
        out.push(match letter {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'u') => return self.unicode(out),
            _ => return Err("inside a string, '\\' occurs before a character which it may not"),
        });
        Ok(())
    }

    /// `\uXXXX`. Halves of pairs are joined or encoded as they come, which is what the old server does.
    fn unicode(&mut self, out: &mut Vec<u8>) -> Result<(), Why> {
        let mut code = self.hex4()?;
        if code & 0xfc00 == 0xd800 {
            if self.text[self.at..].starts_with(b"\\u") {
                self.at += 2;
                let low = self.hex4()?;
                code = (((code & 0x3f) << 10) | ((((code >> 6) & 0xf) + 1) << 16)) | (low & 0x3ff);
            } else {
                code = u32::from(b'?');
            }
        }
        if let Some(letter) = char::from_u32(code) {
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            let [_, _, high, low] = code.to_be_bytes();
            out.extend([0xe0 | high >> 4, 0x80 | (high & 0xf) << 2 | low >> 6, 0x80 | (low & 0x3f)]);
        }
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32, Why> {
        let why = "invalid (non-hex) character occurs after '\\u' inside string";
        let digits = self.text.get(self.at..self.at + 4).ok_or("premature EOF")?;
        let number =
            digits.iter().try_fold(0, |n, d| Some(n * 16 + char::from(*d).to_digit(16)?)).ok_or(why)?;
        self.at += 4;
        Ok(number)
    }

    /// Blanks and comments; an unfinished comment at the end is one too.
    fn blanks(&mut self) -> Result<(), Why> {
        loop {
            let rest = &self.text[self.at..];
            self.at += match rest {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, ..] => 1,
                [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
                [b'/', b'*', body @ ..] => {
                    body.windows(2).position(|two| two == b"*/").map_or(rest.len(), |end| end + 4)
                }
                [b'/', ..] => return Err("invalid char in json text"),
                _ => return Ok(()),
            };
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }
}

fn cut_at_nul(text: &mut Vec<u8>) {
    text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
}

/// Deeper nesting than this is an error, not a stack overflow.
const DEPTH: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
        let mut out = Vec::new();
        let shown = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let result: Result<(), Failed<()>> = read(text.as_bytes(), b"uwsgi", |_, k, v| {
            out.push((shown(k), shown(v)));
            Ok(())
        });
        match result {
            Ok(()) => Ok(out),
            Err(Failed::Each(())) => Err(String::new()),
            Err(Failed::Syntax(_, why)) => Err(why),
        }
    }

    #[test]
    fn numbers_keep_their_text_and_duplicates_their_order() {
        let text = r#"{"x":[{}], "uwsgi": {"b":1.50,"a":true,"b":[1,"x",null,[2],{"c":3}],"o":{"q":1},"e":"\u00e9"}}"#;
        let wanted = [("b", "1.50"), ("a", "1"), ("b", "1"), ("b", "x"), ("b", "0"), ("e", "é")];
        assert_eq!(pairs(text).unwrap(), wanted.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn comments_are_blanks_and_the_first_section_counts() {
        let text = "/* a */ {\"uwsgi\": {\"a\": 1 // x\n}, \"uwsgi\": {\"a\": 2}} // end";
        assert_eq!(pairs(text).unwrap(), [("a".to_owned(), "1".to_owned())]);
        assert!(pairs("{\"uwsgi\": 1, \"uwsgi\": {}}").is_err());
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for text in [
            "",
            "[1",
            "{\"uwsgi\":{\"a\":01}}",
            "{\"uwsgi\":{\"a\":1,}}",
            "{} x",
            "\u{feff}{}",
            "{\"a\":\"\\q\"}",
        ] {
            assert!(pairs(text).is_err(), "{text}");
        }
        assert!(pairs(&"[".repeat(100_000)).is_err());
    }
}
