//! Reads HCL. The crate `hcl-edit` parses it, with a bound on nesting; this turns its tree into ours.

use super::ast::{Attribute, Block, Body, Call, Expr, For, Kind, Operator, Part, Place, Step};
use super::fault::{Fault, Outcome};
use super::number::Number;
use crate::dockerfile::Span;
use hcl_edit::Span as _;
use hcl_edit::expr::{self, BinaryOperator, Expression, ObjectKey, TraversalOperator, UnaryOperator};
use hcl_edit::structure::Structure;
use hcl_edit::template::{Directive, Element, Strip, Template};
use std::ops::Range;

/// Reads a file.
pub(super) fn parse(text: &str, file: usize) -> Outcome<Body> {
    // The parser wants an end of the last line.
    let ended;
    let complete = if text.ends_with('\n') || text.is_empty() {
        text
    } else {
        ended = format!("{text}\n");
        &ended
    };
    let body = hcl_edit::parser::parse_body(complete).map_err(|e| wrong(&e, text.len(), file, 0))?;
    Lower { file, offset: 0 }.body(&body)
}

/// Reads a text that is an expression; `offset` is where it begins in the file.
pub(super) fn parse_expression(text: &str, file: usize, offset: usize) -> Outcome<Expr> {
    let parsed = hcl_edit::parser::parse_expr(text).map_err(|e| wrong(&e, text.len(), file, offset))?;
    Lower { file, offset }.expression(&parsed)
}

/// Reads a text that is a template; `offset` is where it begins in the file.
pub(super) fn parse_template(text: &str, place: Place, offset: usize) -> Outcome<Expr> {
    let parsed =
        hcl_edit::parser::parse_template(text).map_err(|e| wrong(&e, text.len(), place.file, offset))?;
    let kind = Lower { file: place.file, offset }.template_kind(parsed.iter())?;
    Ok(Expr { kind, place })
}

fn wrong(error: &hcl_edit::parser::Error, length: usize, file: usize, offset: usize) -> Fault {
    let start = error.location().offset().min(length);
    let span = Span::new(offset + start, offset + (start + 1).min(length.max(start)));
    Fault::at(Place { file, span }, error.message().to_owned())
}

struct Lower {
    file: usize,
    offset: usize,
}

impl Lower {
    fn place(&self, range: Option<Range<usize>>) -> Place {
        let range = range.unwrap_or_default();
        Place { file: self.file, span: Span::new(self.offset + range.start, self.offset + range.end) }
    }

    fn body(&self, body: &hcl_edit::structure::Body) -> Outcome<Body> {
        let mut out = Body::default();
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => out.attributes.push(Attribute {
                    name: attribute.key.as_str().to_owned(),
                    place: self.place(attribute.key.span()),
                    value: self.expression(&attribute.value)?,
                }),
                Structure::Block(block) => {
                    let start = block.ident.span().unwrap_or_default();
                    let end = block.labels.last().and_then(|label| label.span()).unwrap_or(start.clone()).end;
                    out.blocks.push(Block {
                        kind: block.ident.as_str().to_owned(),
                        labels: block.labels.iter().map(|label| label.as_str().to_owned()).collect(),
                        place: self.place(Some(start.start..end)),
                        body: self.body(&block.body)?,
                    });
                }
            }
        }
        Ok(out)
    }

    fn expressions<'a>(&self, all: impl Iterator<Item = &'a Expression>) -> Outcome<Vec<Expr>> {
        all.map(|expression| self.expression(expression)).collect()
    }

    fn expression(&self, expression: &Expression) -> Outcome<Expr> {
        let place = self.place(expression.span());
        let kind = match expression {
            Expression::Null(_) => Kind::Null,
            Expression::Bool(bool) => Kind::Bool(*bool.value()),
            Expression::Number(number) => Kind::Number(number_of(number.value())),
            Expression::String(text) => Kind::String(text.value().clone()),
            Expression::Array(array) => Kind::Tuple(self.expressions(array.iter())?),
            Expression::Object(object) => self.object(object)?,
            Expression::StringTemplate(template) => self.template_kind(template.iter())?,
            Expression::HeredocTemplate(heredoc) => self.template_kind(heredoc.template.iter())?,
            Expression::Parenthesis(inner) => return self.expression(inner.inner()),
            Expression::Variable(name) => Kind::Variable(name.as_str().to_owned()),
            Expression::Conditional(c) => Kind::Conditional(Box::new([
                self.expression(&c.cond_expr)?,
                self.expression(&c.true_expr)?,
                self.expression(&c.false_expr)?,
            ])),
            Expression::FuncCall(call) => {
                let mut name = String::new();
                for part in &call.name.namespace {
                    name.push_str(part.as_str());
                    name.push_str("::");
                }
                name.push_str(call.name.name.as_str());
                let arguments = self.expressions(call.args.iter())?;
                Kind::Call(Box::new(Call { name, arguments, expand: call.args.expand_final() }))
            }
            Expression::Traversal(traversal) => {
                let of = Box::new(self.expression(&traversal.expr)?);
                let steps: Outcome<_> = traversal.operators.iter().map(|op| self.step(op.value())).collect();
                Kind::Access(of, steps?)
            }
            Expression::UnaryOp(unary) => {
                let inner = Box::new(self.expression(&unary.expr)?);
                match unary.operator.value() {
                    UnaryOperator::Neg => Kind::Negate(inner),
                    UnaryOperator::Not => Kind::Not(inner),
                }
            }
            Expression::BinaryOp(binary) => {
                let sides = [self.expression(&binary.lhs_expr)?, self.expression(&binary.rhs_expr)?];
                Kind::Binary(operator(*binary.operator.value()), Box::new(sides))
            }
            Expression::ForExpr(each) => Kind::For(Box::new(For {
                key_name: each.intro.key_var.as_ref().map(|name| name.as_str().to_owned()),
                value_name: each.intro.value_var.as_str().to_owned(),
                collection: self.expression(&each.intro.collection_expr)?,
                key: each.key_expr.as_ref().map(|key| self.expression(key)).transpose()?,
                value: self.expression(&each.value_expr)?,
                condition: each.cond.as_ref().map(|cond| self.expression(&cond.expr)).transpose()?,
                grouping: each.grouping,
            })),
        };
        Ok(Expr { kind, place })
    }

    fn object(&self, object: &expr::Object) -> Outcome<Kind> {
        let mut entries = Vec::with_capacity(object.len());
        for (key, value) in object {
            let key = match key {
                ObjectKey::Ident(name) => {
                    Expr { kind: Kind::String(name.as_str().to_owned()), place: self.place(name.span()) }
                }
                ObjectKey::Expression(key) => self.expression(key)?,
            };
            entries.push((key, self.expression(value.expr())?));
        }
        Ok(Kind::Object(entries))
    }

    fn step(&self, operator: &TraversalOperator) -> Outcome<Step> {
        Ok(match operator {
            TraversalOperator::AttrSplat(_) => Step::AttributeSplat,
            TraversalOperator::FullSplat(_) => Step::Splat,
            TraversalOperator::GetAttr(name) => Step::Attribute(name.as_str().to_owned()),
            TraversalOperator::Index(index) => Step::Index(self.expression(index)?),
            TraversalOperator::LegacyIndex(index) => {
                let kind = Kind::Number(Number::Whole(i128::from(*index.value())));
                Step::Index(Expr { kind, place: self.place(index.span()) })
            }
        })
    }

    /// Text without interpolations is a string.
    fn template_kind<'a>(&self, elements: impl Iterator<Item = &'a Element>) -> Outcome<Kind> {
        let mut parts = self.parts(elements, Strip::None, Strip::None)?;
        let literal = |part: &Part| matches!(part, Part::Literal(_));
        if !parts.iter().all(literal) {
            return Ok(Kind::Template(parts));
        }
        let mut text = String::new();
        for part in &mut parts {
            if let Part::Literal(literal) = part {
                text.push_str(literal);
            }
        }
        Ok(Kind::String(text))
    }

    /// The parts of a template between two marks, which may strip white space.
    fn parts<'a>(
        &self,
        elements: impl Iterator<Item = &'a Element>,
        before: Strip,
        after: Strip,
    ) -> Outcome<Vec<Part>> {
        let elements: Vec<&Element> = elements.collect();
        let mut parts = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            let part = match element {
                Element::Literal(text) => {
                    let left = index.checked_sub(1).map_or(before.strip_end(), |i| strips(elements[i]).1);
                    let right = elements.get(index + 1).map_or(after.strip_start(), |next| strips(next).0);
                    let mut text = text.value().as_str();
                    if left {
                        text = text.trim_start();
                    }
                    if right {
                        text = text.trim_end();
                    }
                    Part::Literal(text.to_owned())
                }
                Element::Interpolation(interpolation) => {
                    Part::Interpolation(self.expression(&interpolation.expr)?)
                }
                Element::Directive(directive) => self.directive(directive)?,
            };
            parts.push(part);
        }
        Ok(parts)
    }

    fn directive(&self, directive: &Directive) -> Outcome<Part> {
        let inner =
            |template: &Template, before: Strip, after: Strip| self.parts(template.iter(), before, after);
        Ok(match directive {
            Directive::If(branch) => {
                let (start, end) = (&branch.if_expr, &branch.endif_expr);
                let middle = branch.else_expr.as_ref();
                Part::If {
                    condition: self.expression(&start.cond_expr)?,
                    then: inner(&start.template, start.strip, middle.map_or(end.strip, |e| e.strip))?,
                    otherwise: match middle {
                        Some(other) => inner(&other.template, other.strip, end.strip)?,
                        None => Vec::new(),
                    },
                }
            }
            Directive::For(each) => {
                let start = &each.for_expr;
                Part::For {
                    key_name: start.key_var.as_ref().map(|name| name.as_str().to_owned()),
                    value_name: start.value_var.as_str().to_owned(),
                    collection: self.expression(&start.collection_expr)?,
                    parts: inner(&start.template, start.strip, each.endfor_expr.strip)?,
                }
            }
        })
    }
}

/// Whether an element strips the white space before and after it.
fn strips(element: &Element) -> (bool, bool) {
    match element {
        Element::Literal(_) => (false, false),
        Element::Interpolation(interpolation) => {
            (interpolation.strip.strip_start(), interpolation.strip.strip_end())
        }
        Element::Directive(directive) => match &**directive {
            Directive::If(branch) => {
                (branch.if_expr.strip.strip_start(), branch.endif_expr.strip.strip_end())
            }
            Directive::For(each) => (each.for_expr.strip.strip_start(), each.endfor_expr.strip.strip_end()),
        },
    }
}

fn number_of(number: &hcl_edit::Number) -> Number {
    let whole = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    let float = || number.as_f64().and_then(Number::from_f64);
    whole.map(Number::Whole).or_else(float).unwrap_or(Number::Whole(0))
}

fn operator(operator: BinaryOperator) -> Operator {
    match operator {
        BinaryOperator::Eq => Operator::Equal,
        BinaryOperator::NotEq => Operator::NotEqual,
        BinaryOperator::LessEq => Operator::LessEqual,
        BinaryOperator::GreaterEq => Operator::GreaterEqual,
        BinaryOperator::Less => Operator::Less,
        BinaryOperator::Greater => Operator::Greater,
        BinaryOperator::Plus => Operator::Add,
        BinaryOperator::Minus => Operator::Subtract,
        BinaryOperator::Mul => Operator::Multiply,
        BinaryOperator::Div => Operator::Divide,
        BinaryOperator::Mod => Operator::Modulo,
        BinaryOperator::And => Operator::And,
        BinaryOperator::Or => Operator::Or,
    }
}
