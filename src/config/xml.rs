//! The xml reader: the children of `<uwsgi>`, each with the text of its first child node, untrimmed.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use std::borrow::Cow;

use super::error::Failed;

/// Hands every pair to `each` with the offset of its element.
pub(super) fn read<E>(
    text: &[u8],
    asked: Option<&[u8]>,
    mut each: impl FnMut(usize, &[u8], &[u8]) -> Result<(), E>,
) -> Result<(), Failed<E>> {
    if asked == Some(b"") {
        return Err(Failed::Syntax(None, "invalid xml id".into()));
    }
    let asked = asked.map(|id| String::from_utf8_lossy(id).into_owned());
    let root = tree(text)
        .map_err(|(at, why)| Failed::Syntax(Some(at), format!("[uWSGI] could not parse file: {why}")))?;
    let fits = |node: &Node| match (&asked, node.attribute("id")) {
        (Some(asked), Some(id)) => asked == id,
        _ => true,
    };
    let section = if root.name == "uwsgi" {
        Some(&root)
    } else {
        if root.children.is_empty() {
            return Ok(()); // a lone empty element of any name is an empty configuration
        }
        root.elements().find(|node| node.name == "uwsgi" && fits(node))
    };
    let Some(section) = section else {
        let why = "[uWSGI] invalid xml root element, <uwsgi> expected.";
        return Err(Failed::Syntax(None, why.into()));
    };
    for child in &section.children {
        let mut hand = |at: usize, key: &str, value: &str| {
            each(at, key.as_bytes(), value.as_bytes()).map_err(Failed::Each)
        };
        match child {
            Child::Cdata(at, text) => hand(*at, "eval", text)?,
            Child::Element(node) if !fits(node) => {}
            Child::Element(node) if node.name == "app" => {
                let prefix = match (node.attribute("mountpoint"), node.attribute("domain")) {
                    (Some(mountpoint), _) => format!("{mountpoint}="),
                    (None, Some(domain)) => format!("{domain}|="),
                    (None, None) => String::new(),
                };
                // With more than one child the second must be an element, whose text counts.
                let text = match &node.children[..] {
                    [] => None,
                    [_] => node.text(),
                    [_, Child::Element(inner), ..] => inner.text(),
                    [_, _, ..] => None,
                };
                if let Some(text) = text {
                    hand(node.at, "mount", &(prefix + text))?;
                }
                if text.is_some() || node.children.is_empty() {
                    hand(node.at, "app", "")?;
                }
            }
            Child::Element(node) if matches!(node.children.first(), Some(Child::Element(_))) => {
                let why = format!("<{}> must not begin with an element", node.name);
                return Err(Failed::Syntax(Some(node.at), why));
            }
            Child::Element(node) => hand(node.at, &node.name, node.text().unwrap_or("1"))?,
            Child::Text(..) | Child::Aside(..) => {}
        }
    }
    Ok(())
}

#[derive(Default)]
struct Node {
    at: usize,
    name: String,
    attributes: Vec<(String, String)>,
    children: Vec<Child>,
}

enum Child {
    Text(String),
    Cdata(usize, String),
    /// A comment or a processing instruction.
    Aside(String),
    Element(Node),
}

impl Node {
    fn attribute(&self, name: &str) -> Option<&String> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|child| match child {
            Child::Element(node) => Some(node),
            _ => None,
        })
    }

    /// The text of the first child node, whatever it is.
    fn text(&self) -> Option<&str> {
        match self.children.first()? {
            Child::Text(text) | Child::Cdata(_, text) | Child::Aside(text) => Some(text),
            Child::Element(_) => None,
        }
    }
}

/// The document as a tree, or where and why it is none.
fn tree(bytes: &[u8]) -> Result<Node, (usize, String)> {
    let (text, widened) = decode(bytes)?;
    let mut reader = Reader::from_str(&text);
    let mut builder = Builder::default();
    let mut before = (0, 0);
    loop {
        let mut at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX).min(text.len());
        let event = reader.read_event();
        if event.is_err() {
            at = usize::try_from(reader.error_position()).unwrap_or(usize::MAX).min(text.len());
        }
        if widened {
            // Each letter was one byte.
            let from = if at < before.0 { (0, 0) } else { before };
            before = (at, from.1 + text.as_bytes()[from.0..at].iter().filter(|b| **b & 0xc0 != 0x80).count());
            at = before.1;
        }
        let done = match event {
            Ok(event) => builder.take(event, at),
            Err(error) => Err(error.to_string()),
        };
        if done.map_err(|why| (at, why))? {
            return builder.root.ok_or((at, "there is no element".into()));
        }
    }
}

/// The text, and whether it was ISO-8859-1, which is the only other encoding that is read.
fn decode(bytes: &[u8]) -> Result<(Cow<'_, str>, bool), (usize, String)> {
    let head = bytes[..bytes.len().min(200)].to_ascii_lowercase();
    let declared = head.starts_with(b"<?xml") && head.windows(10).any(|w| w == b"iso-8859-1");
    match std::str::from_utf8(bytes) {
        _ if declared => Ok((bytes.iter().map(|b| char::from(*b)).collect::<String>().into(), true)),
        Ok(text) => Ok((text.into(), false)),
        Err(error) => Err((error.valid_up_to(), "the text is not UTF-8".into())),
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Node>,
    root: Option<Node>,
    /// Declared prefixes of names.
    prefixes: Vec<String>,
}

impl Builder {
    /// Takes the next event; `true` at the end.
    fn take(&mut self, event: Event<'_>, at: usize) -> Result<bool, String> {
        let outside = self.open.is_empty();
        match event {
            Event::Eof if !outside => return Err("premature end of data".into()),
            Event::Eof => return Ok(true),
            Event::Start(_) | Event::Empty(_) if outside && self.root.is_some() => {
                return Err("extra content at the end of the document".into());
            }
            Event::Start(_) if self.open.len() >= DEPTH => return Err("nested too deep".into()),
            Event::Start(tag) => {
                let node = self.element(&tag, at)?;
                self.open.push(node);
            }
            Event::Empty(tag) => {
                let node = self.element(&tag, at)?;
                self.close(node);
            }
            Event::End(_) => {
                if let Some(node) = self.open.pop() {
                    self.close(node);
                }
            }
            Event::Text(text) if outside && text.trim_ascii().is_empty() => {}
            Event::Text(_) | Event::GeneralRef(_) | Event::CData(_) if outside => {
                return Err("text outside of the root element".into());
            }
            Event::Text(text) if text.contains("]]>") => {
                return Err("sequence ']]>' not allowed in content".into());
            }
            Event::Text(text) => self.text(&text.replace("\r\n", "\n").replace('\r', "\n")),
            Event::GeneralRef(name) => match name.resolve_char_ref() {
                Ok(Some(letter)) => self.text(letter.encode_utf8(&mut [0; 4])),
                Ok(None) => match quick_xml::escape::resolve_predefined_entity(&name) {
                    Some(text) => self.text(text),
                    None => return Err(format!("entity '{}' not defined", &*name)),
                },
                Err(error) => return Err(error.to_string()),
            },
            Event::CData(text) => match self.open.last_mut().and_then(|node| node.children.last_mut()) {
                Some(Child::Cdata(_, before)) => before.push_str(&text),
                _ => self.add(Child::Cdata(at, text.to_string())),
            },
            Event::Comment(text) => self.add(Child::Aside(text.to_string())),
            Event::PI(instruction) => {
                self.add(Child::Aside(instruction.content().trim_ascii_start().to_owned()));
            }
            Event::Decl(_) | Event::DocType(_) => {}
        }
        Ok(false)
    }

    fn add(&mut self, child: Child) {
        if let Some(node) = self.open.last_mut() {
            node.children.push(child);
        }
    }

    /// Text continues the text before it.
    fn text(&mut self, text: &str) {
        if let Some(Child::Text(before)) = self.open.last_mut().and_then(|node| node.children.last_mut()) {
            before.push_str(text);
        } else {
            self.add(Child::Text(text.to_owned()));
        }
    }

    fn close(&mut self, node: Node) {
        if self.open.is_empty() {
            self.root = Some(node);
        } else {
            self.add(Child::Element(node));
        }
    }

    fn element(&mut self, tag: &BytesStart<'_>, at: usize) -> Result<Node, String> {
        let mut node = Node { at, ..Node::default() };
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let name: &str = attribute.key.as_ref();
            let value = quick_xml::escape::unescape(&attribute.value).map_err(|error| error.to_string())?;
            if let Some(prefix) = name.strip_prefix("xmlns:") {
                self.prefixes.push(prefix.to_owned());
            }
            node.attributes.push((name.to_owned(), value.into_owned()));
        }
        let name = tag.name();
        let name: &str = name.as_ref();
        // Of a declared prefix nothing is seen.
        node.name = match name.split_once(':') {
            Some((prefix, local)) if self.prefixes.iter().any(|p| p == prefix) => local.to_owned(),
            _ => name.to_owned(),
        };
        Ok(node)
    }
}

/// Deeper nesting than this is an error, not a stack overflow when the tree is dropped.
const DEPTH: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str, asked: Option<&str>) -> Result<Vec<String>, String> {
        let mut out = Vec::new();
        let result: Result<(), Failed<()>> = read(text.as_bytes(), asked.map(str::as_bytes), |_, k, v| {
            out.push(format!("{}={}", String::from_utf8_lossy(k), String::from_utf8_lossy(v)));
            Ok(())
        });
        match result {
            Ok(()) => Ok(out),
            Err(Failed::Each(())) => Err(String::new()),
            Err(Failed::Syntax(_, why)) => Err(why),
        }
    }

    #[test]
    fn the_first_child_node_is_the_value() {
        let text = "<uwsgi><a> 1 &amp; &#65;</a><b/><c></c><d>x<!-- y -->z</d><e><![CDATA[x<y]]></e>\
            <f> <g>1</g></f><h><!-- c -->x</h><![CDATA[code]]></uwsgi>";
        let wanted = ["a= 1 & A", "b=1", "c=1", "d=x", "e=x<y", "f= ", "h= c ", "eval=code"];
        assert_eq!(pairs(text, None).unwrap(), wanted);
    }

    #[test]
    fn ids_choose_sections_and_children() {
        let text =
            r#"<all><uwsgi id="a"><s>1</s></uwsgi><uwsgi id="b"><s>2</s><t id="a">3</t></uwsgi></all>"#;
        assert_eq!(pairs(text, None).unwrap(), ["s=1"]);
        assert_eq!(pairs(text, Some("b")).unwrap(), ["s=2"]);
        assert!(pairs(text, Some("c")).is_err());
        assert!(pairs(text, Some("")).is_err());
    }

    #[test]
    fn an_app_becomes_a_mount() {
        let text = r#"<uwsgi><app mountpoint="/m" domain="d"> <s>one</s></app><app domain="d">two</app><app/></uwsgi>"#;
        assert_eq!(pairs(text, None).unwrap(), ["mount=/m=one", "app=", "mount=d|=two", "app=", "app="]);
    }

    #[test]
    fn what_is_no_xml_is_an_error() {
        for text in [
            "",
            "<uwsgi><s>1</uwsgi>",
            "<uwsgi>",
            "<uwsgi/><b/>",
            "<uwsgi><a>x & y</a></uwsgi>",
            "<uwsgi><a b=c/></uwsgi>",
            "<uwsgi><a>x]]>y</a></uwsgi>",
            "<uwsgi>&nope;</uwsgi>",
            "<uwsgi><s><t>1</t></s></uwsgi>",
        ] {
            assert!(pairs(text, None).is_err(), "{text}");
        }
        assert!(pairs(&"<a>".repeat(100_000), None).is_err());
    }
}
