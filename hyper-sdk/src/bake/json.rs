//! Reads definitions in JSON: the JSON form of HCL, whose strings are templates.
//!
//! A parser of its own keeps the places of everything, for messages.

use super::ast::{Attribute, Block, Body, Expr, Kind, Place};
use super::fault::{Fault, Outcome};
use super::hcl;
use super::number::Number;
use crate::dockerfile::Span;

/// The most levels of nesting.
const MAX_DEPTH: usize = 64;

/// The blocks that have a label.
const LABELLED: [&str; 4] = ["variable", "function", "group", "target"];

/// Reads a file.
pub(super) fn parse(text: &str, file: usize) -> Outcome<Body> {
    let mut reader = Reader { text, at: 0, file };
    let node = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.wrong("expected the end of the file"));
    }
    Lower { file }.body(&node, None)
}

/// A JSON value and its place.
#[derive(Debug)]
struct Node {
    value: Json,
    span: Span,
}

#[derive(Debug)]
enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Node>),
    /// Names with their places.
    Object(Vec<(String, Span, Node)>),
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    file: usize,
}

impl Reader<'_> {
    fn wrong(&self, message: impl Into<String>) -> Fault {
        let span = Span::new(self.at, (self.at + 1).min(self.text.len().max(self.at)));
        Fault::at(Place { file: self.file, span }, message)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Outcome<()> {
        self.space();
        match self.take(byte) {
            true => Ok(()),
            false => Err(self.wrong(format!("expected `{}`", byte as char))),
        }
    }

    fn value(&mut self, depth: usize) -> Outcome<Node> {
        if depth > MAX_DEPTH {
            return Err(self.wrong(format!("values are nested more than {MAX_DEPTH} levels deep")));
        }
        self.space();
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Json::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't' | b'f' | b'n') => self.word()?,
            _ => return Err(self.wrong("expected a JSON value")),
        };
        Ok(Node { value, span: Span::new(start, self.at) })
    }

    fn object(&mut self, depth: usize) -> Outcome<Json> {
        self.at += 1;
        let mut entries = Vec::new();
        self.space();
        if self.take(b'}') {
            return Ok(Json::Object(entries));
        }
        loop {
            self.space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.wrong("expected a name in double quotes"));
            }
            let name = self.string()?;
            let span = Span::new(start, self.at);
            self.expect(b':')?;
            entries.push((name, span, self.value(depth + 1)?));
            self.space();
            if self.take(b'}') {
                return Ok(Json::Object(entries));
            }
            if !self.take(b',') {
                return Err(self.wrong("expected `,` or `}`"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Outcome<Json> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.take(b']') {
                return Ok(Json::Array(items));
            }
            if !self.take(b',') {
                return Err(self.wrong("expected `,` or `]`"));
            }
        }
    }

    fn string(&mut self) -> Outcome<String> {
        let start = self.at;
        self.at += 1;
        let mut escaped = false;
        loop {
            match self.peek() {
                None | Some(b'\n') => return Err(self.wrong("a string is not closed")),
                Some(b'"') if !escaped => break,
                Some(byte) => escaped = byte == b'\\' && !escaped,
            }
            self.at += 1;
        }
        self.at += 1;
        serde_json::from_str(&self.text[start..self.at]).map_err(|_| {
            let place = Place { file: self.file, span: Span::new(start, self.at) };
            Fault::at(place, "a string has an escape that JSON does not know")
        })
    }

    fn number(&mut self) -> Outcome<Json> {
        let start = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        let number = Number::parse(text).filter(|_| serde_json::from_str::<f64>(text).is_ok());
        number.map(Json::Number).ok_or_else(|| {
            self.at = start;
            self.wrong("this is not a number")
        })
    }

    fn word(&mut self) -> Outcome<Json> {
        for (word, value) in [("true", Json::Bool(true)), ("false", Json::Bool(false)), ("null", Json::Null)]
        {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.wrong("expected a JSON value"))
    }
}

struct Lower {
    file: usize,
}

impl Lower {
    fn place(&self, span: Span) -> Place {
        Place { file: self.file, span }
    }

    fn expected(&self, node: &Node, what: &str) -> Fault {
        Fault::at(self.place(node.span), format!("expected {what}"))
    }

    /// The body of a file, or of a block of a kind.
    fn body(&self, node: &Node, block: Option<&str>) -> Outcome<Body> {
        let mut body = Body::default();
        self.add(node, block, &mut body)?;
        Ok(body)
    }

    fn add(&self, node: &Node, block: Option<&str>, body: &mut Body) -> Outcome<()> {
        let entries = match &node.value {
            Json::Object(entries) => entries,
            Json::Array(items) if block.is_none() => {
                return items.iter().try_for_each(|item| self.add(item, block, body));
            }
            _ => return Err(self.expected(node, "an object")),
        };
        for (name, span, value) in entries {
            match (block, name.as_str()) {
                (_, "//") => {}
                (None, kind) if LABELLED.contains(&kind) => self.labelled(kind, value, body)?,
                (Some("variable"), "validation") => {
                    for inner in items(value) {
                        body.blocks.push(Block {
                            kind: name.clone(),
                            labels: Vec::new(),
                            place: self.place(*span),
                            body: self.body(inner, Some("validation"))?,
                        });
                    }
                }
                (block, name) => body.attributes.push(Attribute {
                    name: name.to_owned(),
                    place: self.place(*span),
                    value: match (block, name) {
                        (Some("function"), "params" | "variadic_params") | (Some("variable"), "type") => {
                            self.syntax(value)?
                        }
                        _ => self.expression(value)?,
                    },
                }),
            }
        }
        Ok(())
    }

    fn labelled(&self, kind: &str, node: &Node, body: &mut Body) -> Outcome<()> {
        for group in items(node) {
            let Json::Object(entries) = &group.value else {
                return Err(self.expected(group, "an object with the names as keys"));
            };
            for (label, span, value) in entries.iter().filter(|(label, ..)| label != "//") {
                for inner in items(value) {
                    body.blocks.push(Block {
                        kind: kind.to_owned(),
                        labels: vec![label.clone()],
                        place: self.place(*span),
                        body: self.body(inner, Some(kind))?,
                    });
                }
            }
        }
        Ok(())
    }

    /// A value whose strings are templates.
    fn expression(&self, node: &Node) -> Outcome<Expr> {
        let place = self.place(node.span);
        let kind = match &node.value {
            Json::Null => Kind::Null,
            Json::Bool(bool) => Kind::Bool(*bool),
            Json::Number(number) => Kind::Number(*number),
            Json::String(text) => return self.template(text, node.span),
            Json::Array(items) => {
                Kind::Tuple(items.iter().map(|item| self.expression(item)).collect::<Outcome<_>>()?)
            }
            Json::Object(entries) => {
                let entry = |(name, span, value): &(String, Span, Node)| {
                    Ok((self.template(name, *span)?, self.expression(value)?))
                };
                Kind::Object(entries.iter().map(entry).collect::<Outcome<_>>()?)
            }
        };
        Ok(Expr { kind, place })
    }

    fn template(&self, text: &str, span: Span) -> Outcome<Expr> {
        let place = self.place(span);
        if !text.contains("${") && !text.contains("%{") {
            return Ok(Expr { kind: Kind::String(text.to_owned()), place });
        }
        hcl::parse_template(text, place, span.start + 1)
    }

    /// A value whose strings are expressions: names and types.
    fn syntax(&self, node: &Node) -> Outcome<Expr> {
        match &node.value {
            Json::String(text) => hcl::parse_expression(text, self.file, node.span.start + 1),
            Json::Array(items) => {
                let items = items.iter().map(|item| self.syntax(item)).collect::<Outcome<_>>()?;
                Ok(Expr { kind: Kind::Tuple(items), place: self.place(node.span) })
            }
            _ => self.expression(node),
        }
    }
}

/// The items of an array, or the value itself.
fn items(node: &Node) -> &[Node] {
    match &node.value {
        Json::Array(items) => items,
        _ => std::slice::from_ref(node),
    }
}
