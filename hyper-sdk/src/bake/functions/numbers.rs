//! Functions of numbers and truth.

use super::{Arguments, Number, Outcome, Table, Value};

pub(super) const TABLE: Table = &[
    ("absolute", |a| unary(a, |n| if n < Number::Whole(0) { negated(n) } else { Some(n) })),
    ("add", |a| binary(a, |x, y| x.combine(y, i128::checked_add, |x, y| x + y))),
    ("and", |a| logic(a, |x, y| x && y)),
    ("ceil", |a| unary(a, |n| round(n, f64::ceil))),
    ("divide", |a| binary(a, Number::divided_by)),
    ("equal", |a| a.exactly(2).and_then(|()| Ok(Value::Bool(a.get(0)? == a.get(1)?)))),
    ("floor", |a| unary(a, |n| round(n, f64::floor))),
    ("greaterthan", |a| compare(a, |x, y| x > y)),
    ("greaterthanorequalto", |a| compare(a, |x, y| x >= y)),
    ("int", |a| unary(a, |n| round(n, f64::trunc))),
    ("lessthan", |a| compare(a, |x, y| x < y)),
    ("lessthanorequalto", |a| compare(a, |x, y| x <= y)),
    ("log", |a| binary(a, |x, base| Number::from_f64(x.as_f64().ln() / base.as_f64().ln()))),
    ("max", |a| extreme(a, |best, next| next > best)),
    ("min", |a| extreme(a, |best, next| next < best)),
    ("modulo", |a| binary(a, Number::modulo)),
    ("multiply", |a| binary(a, |x, y| x.combine(y, i128::checked_mul, |x, y| x * y))),
    ("negate", |a| unary(a, negated)),
    ("not", |a| a.exactly(1).and_then(|()| Ok(Value::Bool(!a.bool(0)?)))),
    ("notequal", |a| a.exactly(2).and_then(|()| Ok(Value::Bool(a.get(0)? != a.get(1)?)))),
    ("or", |a| logic(a, |x, y| x || y)),
    ("parseint", parse_int),
    ("pow", |a| binary(a, power)),
    ("signum", |a| unary(a, |n| Some(Number::Whole(n.cmp(&Number::Whole(0)) as i128)))),
    ("subtract", |a| binary(a, |x, y| x.combine(y, i128::checked_sub, |x, y| x - y))),
];

fn finite(number: Option<Number>) -> Outcome<Value> {
    number.map(Value::Number).ok_or_else(|| "the result is not a finite number".into())
}

fn unary(a: &Arguments<'_>, f: impl Fn(Number) -> Option<Number>) -> Outcome<Value> {
    a.exactly(1)?;
    finite(f(a.number(0)?))
}

fn binary(a: &Arguments<'_>, f: impl Fn(Number, Number) -> Option<Number>) -> Outcome<Value> {
    a.exactly(2)?;
    finite(f(a.number(0)?, a.number(1)?))
}

fn compare(a: &Arguments<'_>, f: impl Fn(Number, Number) -> bool) -> Outcome<Value> {
    a.exactly(2)?;
    Ok(Value::Bool(f(a.number(0)?, a.number(1)?)))
}

fn logic(a: &Arguments<'_>, f: impl Fn(bool, bool) -> bool) -> Outcome<Value> {
    a.exactly(2)?;
    Ok(Value::Bool(f(a.bool(0)?, a.bool(1)?)))
}

fn extreme(a: &Arguments<'_>, better: impl Fn(Number, Number) -> bool) -> Outcome<Value> {
    a.count(1, usize::MAX)?;
    let mut best = a.number(0)?;
    for index in 1..a.values.len() {
        let next = a.number(index)?;
        best = if better(best, next) { next } else { best };
    }
    Ok(Value::Number(best))
}

fn negated(n: Number) -> Option<Number> {
    Number::Whole(0).combine(n, i128::checked_sub, |a, b| a - b)
}

fn round(n: Number, f: fn(f64) -> f64) -> Option<Number> {
    match n {
        Number::Whole(_) => Some(n),
        Number::Float(float) => Number::from_f64(f(float)),
    }
}

fn power(base: Number, exponent: Number) -> Option<Number> {
    let exact = |base: i128, exponent: i128| base.checked_pow(u32::try_from(exponent).ok()?);
    base.combine(exponent, exact, f64::powf)
}

fn parse_int(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(2)?;
    let (text, base) = (a.text(0)?, a.whole(1)?);
    let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
    let base = base.ok_or("argument 2: expected a base from 2 to 36")?;
    let number = i128::from_str_radix(&text, base);
    let number = number.map_err(|_| format!("argument 1: expected a whole number of base {base}"))?;
    Ok(Value::whole(number))
}
