//! Functions of sets.

use super::{Arguments, Outcome, Table, Value};
use crate::bake::value::{Sequence, unify};

pub(super) const TABLE: Table = &[
    ("sethaselement", |a| {
        a.exactly(2)?;
        Ok(Value::Bool(a.items(0)?.contains(a.get(1)?)))
    }),
    ("setintersection", |a| fold(a, |all, next| all.iter().filter(|v| next.contains(v)).cloned().collect())),
    ("setproduct", product),
    ("setsubtract", |a| {
        a.exactly(2)?;
        fold(a, |all, next| all.iter().filter(|value| !next.contains(value)).cloned().collect())
    }),
    ("setsymmetricdifference", |a| {
        fold(a, |all, next| {
            let only = |some: &[Value], others: &[Value]| {
                some.iter().filter(|value| !others.contains(value)).cloned().collect::<Vec<_>>()
            };
            [only(all, next), only(next, all)].concat()
        })
    }),
    ("setunion", |a| fold(a, |all, next| [all, next].concat())),
];

fn fold(a: &Arguments<'_>, combine: impl Fn(&[Value], &[Value]) -> Vec<Value>) -> Outcome<Value> {
    a.count(1, usize::MAX)?;
    let mut all = unify(a.items(0)?.to_vec());
    for index in 1..a.values.len() {
        let next = a.items(index)?;
        // Each item is compared with each.
        a.spend(all.len().saturating_mul(next.len()))?;
        all = combine(&all, next);
    }
    Ok(Value::set(unify(all)))
}

fn product(a: &Arguments<'_>) -> Outcome<Value> {
    a.count(2, usize::MAX)?;
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for index in 0..a.values.len() {
        let items = a.items(index)?;
        a.spend(rows.len().saturating_mul(items.len()).saturating_mul(32 * (index + 1)))?;
        rows = rows
            .iter()
            .flat_map(|row| {
                items.iter().map(move |item| [row.as_slice(), std::slice::from_ref(item)].concat())
            })
            .collect();
    }
    let sets = a.values.iter().all(|value| matches!(value, Value::Sequence(Sequence::Set, _)));
    let rows = rows.into_iter().map(Value::tuple).collect();
    Ok(if sets { Value::set(rows) } else { Value::list(rows) })
}
