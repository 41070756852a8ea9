//! Evaluates expressions.

use super::ast::{Call, Expr, For, Kind, Operator, Part, Place, Step};
use super::budget::Budget;
use super::fault::{Fault, Outcome};
use super::functions;
use super::number::Number;
use super::value::{Sequence, Value, unify, with_article};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where names that are not local come from.
pub(super) trait Names {
    /// The value of a variable. The steps that follow its name come too, because blocks are evaluated by attribute: the
    /// number of steps that the value already took is returned with it.
    fn variable(&self, name: &str, steps: &[Step]) -> Outcome<(Value, usize)>;

    /// Calls a function that the files define; `None` when there is none of that name.
    fn call(&self, name: &str, arguments: &[Value]) -> Option<Outcome<Value>>;

    /// What functions know about the world.
    fn world(&self) -> &functions::World<'_>;

    fn budget(&self) -> &Budget;
}

/// Local variables.
#[derive(Debug, Default)]
pub(super) struct Scope<'a> {
    pub(super) parent: Option<&'a Scope<'a>>,
    pub(super) names: BTreeMap<String, Value>,
}

impl Scope<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.names.get(name).or_else(|| self.parent?.get(name))
    }
}

/// Evaluates an expression.
pub(super) fn evaluate(expr: &Expr, scope: &Scope<'_>, names: &dyn Names) -> Outcome<Value> {
    let budget = names.budget();
    let value = budget
        .step()
        .and_then(|()| budget.deeper(|| Evaluation { scope, names }.kind(expr)))
        .and_then(|value| budget.spend(value.size()).map(|()| value));
    value.map_err(|fault| fault.or_at(expr.place))
}

struct Evaluation<'a> {
    scope: &'a Scope<'a>,
    names: &'a dyn Names,
}

impl Evaluation<'_> {
    fn value(&self, expr: &Expr) -> Outcome<Value> {
        evaluate(expr, self.scope, self.names)
    }

    fn kind(&self, expr: &Expr) -> Outcome<Value> {
        match &expr.kind {
            Kind::Null => Ok(Value::Null),
            Kind::Bool(bool) => Ok(Value::Bool(*bool)),
            Kind::Number(number) => Ok(Value::Number(*number)),
            Kind::String(text) => Ok(Value::string(text.as_str())),
            Kind::Tuple(items) => {
                Ok(Value::tuple(items.iter().map(|item| self.value(item)).collect::<Outcome<_>>()?))
            }
            Kind::Object(entries) => {
                let mut object = BTreeMap::new();
                for (key, value) in entries {
                    object.insert(self.key(key)?, self.value(value)?);
                }
                Ok(Value::object(object))
            }
            Kind::Template(parts) => match parts.as_slice() {
                [Part::Interpolation(only)] => self.value(only),
                parts => {
                    let mut text = String::new();
                    self.template(parts, self.scope, &mut text)?;
                    Ok(Value::string(text))
                }
            },
            Kind::Variable(name) => self.variable(name, &[], expr.place).map(|(value, _)| value),
            Kind::Conditional(parts) => self.conditional(parts),
            Kind::Call(call) => self.call(call, expr.place),
            Kind::Access(of, steps) => {
                let (value, taken) = match of.keyword() {
                    Some(name) => self.variable(name, steps, of.place)?,
                    None => (self.value(of)?, 0),
                };
                self.walk(value, &steps[taken..])
            }
            Kind::Not(inner) => {
                let value = self.value(inner)?;
                Ok(Value::Bool(!value.to_bool().map_err(|why| Fault::at(inner.place, why))?))
            }
            Kind::Negate(inner) => {
                let number = self.number(inner)?;
                let negated = Number::Whole(0).combine(number, i128::checked_sub, |a, b| a - b);
                Ok(Value::Number(negated.unwrap_or(Number::Whole(0))))
            }
            Kind::Binary(operator, sides) => self.binary(*operator, &sides[0], &sides[1]),
            Kind::For(each) => self.for_each(each),
        }
    }

    fn variable(&self, name: &str, steps: &[Step], place: Place) -> Outcome<(Value, usize)> {
        match self.scope.get(name) {
            Some(value) => Ok((value.clone(), 0)),
            None => self.names.variable(name, steps).map_err(|fault| fault.or_at(place)),
        }
    }

    fn key(&self, key: &Expr) -> Outcome<String> {
        let value = self.value(key)?;
        let text =
            value.to_text().map_err(|why| Fault::at(key.place, format!("the key of an entry: {why}")))?;
        Ok(text.to_string())
    }

    fn number(&self, expr: &Expr) -> Outcome<Number> {
        self.value(expr)?.to_number().map_err(|why| Fault::at(expr.place, why))
    }

    fn conditional(&self, [condition, yes, no]: &[Expr; 3]) -> Outcome<Value> {
        let value = self.value(condition)?;
        let holds =
            value.to_bool().map_err(|why| Fault::at(condition.place, format!("the condition: {why}")))?;
        let (chosen, other) = if holds { (yes, no) } else { (no, yes) };
        let chosen = self.value(chosen)?;
        // Both results have one type.
        match self.value(other) {
            Ok(other) => Ok(unify(vec![chosen, other]).swap_remove(0)),
            Err(fault) if fault.fatal => Err(fault),
            Err(_) => Ok(chosen),
        }
    }

    fn call(&self, call: &Call, place: Place) -> Outcome<Value> {
        if let Some(value) = self.lazy_call(call)? {
            return Ok(value);
        }
        let mut arguments = call.arguments.iter().map(|a| self.value(a)).collect::<Outcome<Vec<_>>>()?;
        if call.expand
            && let Some(last) = arguments.pop()
        {
            let items = last.items().map_err(|why| format!("the argument before `...`: {why}"))?;
            arguments.extend(items.iter().cloned());
        }
        let result = match self.names.call(&call.name, &arguments) {
            Some(result) => result,
            None => functions::call(&call.name, &arguments, self.names.world(), self.names.budget()),
        };
        result.map_err(|fault| match fault.place {
            None => {
                let message = format!("`{}`: {}", call.name, fault.message);
                Fault { message, place: Some(place), ..fault }
            }
            Some(_) => fault,
        })
    }

    /// The functions that see expressions in place of values.
    fn lazy_call(&self, call: &Call) -> Outcome<Option<Value>> {
        match (call.name.as_str(), call.arguments.as_slice()) {
            ("try", alternatives) if !alternatives.is_empty() => {
                let mut last = Fault::new("no alternative");
                for alternative in alternatives {
                    match self.value(alternative) {
                        Ok(value) => return Ok(Some(value)),
                        Err(fault) if fault.fatal => return Err(fault),
                        Err(fault) => last = fault,
                    }
                }
                Err(Fault { message: format!("no alternative of `try` works: {}", last.message), ..last })
            }
            ("can", [expr]) => match self.value(expr) {
                Ok(_) => Ok(Some(Value::Bool(true))),
                Err(fault) if fault.fatal => Err(fault),
                Err(_) => Ok(Some(Value::Bool(false))),
            },
            ("convert", [value, ty]) => {
                let to = super::types::constraint(ty)?;
                Ok(Some(self.value(value)?.convert(&to)?))
            }
            _ => Ok(None),
        }
    }

    fn binary(&self, operator: Operator, left: &Expr, right: &Expr) -> Outcome<Value> {
        let bool = |expr: &Expr| self.value(expr)?.to_bool().map_err(|why| Fault::at(expr.place, why));
        match operator {
            Operator::And => return Ok(Value::Bool(bool(left)? && bool(right)?)),
            Operator::Or => return Ok(Value::Bool(bool(left)? || bool(right)?)),
            Operator::Equal => return Ok(Value::Bool(self.value(left)? == self.value(right)?)),
            Operator::NotEqual => return Ok(Value::Bool(self.value(left)? != self.value(right)?)),
            _ => {}
        }
        let (a, b) = (self.number(left)?, self.number(right)?);
        let number = match operator {
            Operator::Add => a.combine(b, i128::checked_add, |a, b| a + b),
            Operator::Subtract => a.combine(b, i128::checked_sub, |a, b| a - b),
            Operator::Multiply => a.combine(b, i128::checked_mul, |a, b| a * b),
            Operator::Divide => a.divided_by(b),
            Operator::Modulo => a.modulo(b),
            Operator::Less => return Ok(Value::Bool(a < b)),
            Operator::LessEqual => return Ok(Value::Bool(a <= b)),
            Operator::Greater => return Ok(Value::Bool(a > b)),
            _ => return Ok(Value::Bool(a >= b)),
        };
        number.map(Value::Number).ok_or_else(|| "the result is not a finite number".into())
    }

    fn walk(&self, mut value: Value, steps: &[Step]) -> Outcome<Value> {
        for (index, step) in steps.iter().enumerate() {
            let rest = &steps[index + 1..];
            value = match step {
                Step::Attribute(name) => attribute(&value, name)?,
                Step::Index(key) => {
                    let key_value = self.value(key)?;
                    value.at(&key_value).map_err(|why| Fault::at(key.place, why))?
                }
                Step::Splat => return self.splat(value, rest, &[]),
                Step::AttributeSplat => {
                    let attributes = rest.iter().take_while(|s| matches!(s, Step::Attribute(_))).count();
                    return self.splat(value, &rest[..attributes], &rest[attributes..]);
                }
            };
        }
        Ok(value)
    }

    /// Takes the inner steps into every item, and the outer ones into the list of results.
    fn splat(&self, value: Value, inner: &[Step], outer: &[Step]) -> Outcome<Value> {
        let items = match value {
            Value::Null => Arc::default(),
            Value::Sequence(_, items) => items,
            single => Arc::new(vec![single]),
        };
        let each = |item: &Value| {
            self.names.budget().step()?;
            self.walk(item.clone(), inner)
        };
        let results = items.iter().map(each).collect::<Outcome<_>>()?;
        self.walk(Value::tuple(results), outer)
    }

    /// The keys and values of a collection.
    fn pairs(&self, collection: &Expr, scope: &Scope<'_>) -> Outcome<Vec<(Value, Value)>> {
        match evaluate(collection, scope, self.names)? {
            Value::Sequence(Sequence::Set, items) => {
                Ok(items.iter().map(|item| (item.clone(), item.clone())).collect())
            }
            Value::Sequence(_, items) => {
                Ok(items.iter().enumerate().map(|(i, item)| (Value::count(i), item.clone())).collect())
            }
            Value::Mapping(_, entries) => {
                Ok(entries.iter().map(|(key, value)| (Value::string(key.as_str()), value.clone())).collect())
            }
            other => {
                let message = format!("expected a list or a map, found {}", with_article(other.kind()));
                Err(Fault::at(collection.place, message))
            }
        }
    }

    fn for_each(&self, each: &For) -> Outcome<Value> {
        let mut items = Vec::new();
        let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (key, value) in self.pairs(&each.collection, self.scope)? {
            let scope = child(self.scope, each.key_name.as_deref(), key, &each.value_name, value);
            let inner = Evaluation { scope: &scope, names: self.names };
            if let Some(condition) = &each.condition {
                let holds = inner.value(condition)?;
                if !holds.to_bool().map_err(|why| Fault::at(condition.place, why))? {
                    continue;
                }
            }
            match &each.key {
                None => items.push(inner.value(&each.value)?),
                Some(key) => {
                    let name = inner.key(key)?;
                    let value = inner.value(&each.value)?;
                    let group = groups.entry(name).or_default();
                    if !group.is_empty() && !each.grouping {
                        let message = "two items have this key: write `...` after the value to collect them";
                        return Err(Fault::at(key.place, message));
                    }
                    group.push(value);
                }
            }
        }
        if each.key.is_none() {
            return Ok(Value::tuple(items));
        }
        let entry = |(key, mut values): (String, Vec<Value>)| match each.grouping {
            true => Some((key, Value::tuple(values))),
            false => values.pop().map(|value| (key, value)),
        };
        Ok(Value::object(groups.into_iter().filter_map(entry).collect()))
    }

    fn template(&self, parts: &[Part], scope: &Scope<'_>, text: &mut String) -> Outcome<()> {
        for part in parts {
            let before = text.len();
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Interpolation(expr) => {
                    let value = evaluate(expr, scope, self.names)?;
                    let shown =
                        value.to_text().map_err(|why| Fault::at(expr.place, format!("in a text, {why}")))?;
                    text.push_str(&shown);
                }
                Part::If { condition, then, otherwise } => {
                    let value = evaluate(condition, scope, self.names)?;
                    let holds = value.to_bool().map_err(|why| Fault::at(condition.place, why))?;
                    self.template(if holds { then } else { otherwise }, scope, text)?;
                }
                Part::For { key_name, value_name, collection, parts } => {
                    for (key, value) in self.pairs(collection, scope)? {
                        self.names.budget().step()?;
                        let inner = child(scope, key_name.as_deref(), key, value_name, value);
                        self.template(parts, &inner, text)?;
                    }
                }
            }
            self.names.budget().spend(text.len() - before)?;
        }
        Ok(())
    }
}

fn child<'a>(
    parent: &'a Scope<'a>,
    key_name: Option<&str>,
    key: Value,
    value_name: &str,
    value: Value,
) -> Scope<'a> {
    let key = key_name.map(|name| (name.to_owned(), key));
    Scope { parent: Some(parent), names: key.into_iter().chain([(value_name.to_owned(), value)]).collect() }
}

/// The attribute of a value.
fn attribute(value: &Value, name: &str) -> Outcome<Value> {
    match value {
        Value::Mapping(_, entries) => {
            entries.get(name).cloned().ok_or_else(|| format!("there is no attribute `{name}`").into())
        }
        other => Err(format!("{} has no attribute `{name}`", with_article(other.kind())).into()),
    }
}
