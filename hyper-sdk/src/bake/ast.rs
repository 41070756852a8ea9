//! The syntax of definitions, whether they were written as HCL or as JSON.

use super::number::Number;
use crate::dockerfile::Span;

/// A place in one of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The number of the file.
    pub(super) file: usize,
    pub(super) span: Span,
}

/// An expression and where it is.
#[derive(Clone, Debug)]
pub(super) struct Expr {
    pub(super) kind: Kind,
    pub(super) place: Place,
}

/// A kind of expression.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Tuple(Vec<Expr>),
    Object(Vec<(Expr, Expr)>),
    /// Text with interpolations. One interpolation alone is the value itself.
    Template(Vec<Part>),
    Variable(String),
    Conditional(Box<[Expr; 3]>),
    Call(Box<Call>),
    /// A value and the steps into it.
    Access(Box<Expr>, Vec<Step>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary(Operator, Box<[Expr; 2]>),
    For(Box<For>),
}

/// A binary operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    And,
    Or,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// A call of a function.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: Vec<Expr>,
    /// Whether the last argument is a list of arguments.
    pub(super) expand: bool,
}

/// A step into a value.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Attribute(String),
    Index(Expr),
    /// The attribute steps that follow apply to each item.
    AttributeSplat,
    /// All steps that follow apply to each item.
    Splat,
}

/// `[for …]` or `{for …}`.
#[derive(Clone, Debug)]
pub(super) struct For {
    pub(super) key_name: Option<String>,
    pub(super) value_name: String,
    pub(super) collection: Expr,
    /// The key of an entry, when the result is an object.
    pub(super) key: Option<Expr>,
    pub(super) value: Expr,
    pub(super) condition: Option<Expr>,
    /// Whether the values of a key are collected in a list.
    pub(super) grouping: bool,
}

/// A part of a template.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Literal(String),
    Interpolation(Expr),
    If { condition: Expr, then: Vec<Part>, otherwise: Vec<Part> },
    For { key_name: Option<String>, value_name: String, collection: Expr, parts: Vec<Part> },
}

/// An attribute.
#[derive(Clone, Debug)]
pub(super) struct Attribute {
    pub(super) name: String,
    /// Where the name is.
    pub(super) place: Place,
    pub(super) value: Expr,
}

/// A block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) kind: String,
    pub(super) labels: Vec<String>,
    /// Where its kind and labels are.
    pub(super) place: Place,
    pub(super) body: Body,
}

/// The attributes and blocks of a file or block.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    pub(super) attributes: Vec<Attribute>,
    pub(super) blocks: Vec<Block>,
}

impl Body {
    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }
}

impl Expr {
    /// The identifier that the expression is.
    pub(super) fn keyword(&self) -> Option<&str> {
        match &self.kind {
            Kind::Variable(name) => Some(name),
            _ => None,
        }
    }
}
