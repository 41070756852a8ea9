//! Functions of lists and maps.

use super::{Arguments, Outcome, Table, Value};
use crate::bake::value::{Mapping, Sequence, Type, unify};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const TABLE: Table = &[
    ("chunklist", chunks),
    ("coalesce", coalesce),
    ("coalescelist", coalesce_list),
    ("compact", compact),
    ("concat", concat),
    ("contains", |a| a.exactly(2).and_then(|()| Ok(Value::Bool(a.items(0)?.contains(a.get(1)?))))),
    ("distinct", distinct),
    ("element", element),
    ("flatten", |a| {
        a.exactly(1)?;
        let mut items = Vec::new();
        flatten(a, a.items(0)?, &mut items)?;
        Ok(Value::tuple(items))
    }),
    ("hasindex", |a| a.exactly(2).and_then(|()| Ok(Value::Bool(a.value(0)?.at(a.value(1)?).is_ok())))),
    ("index", |a| a.exactly(2).and_then(|()| Ok(a.value(0)?.at(a.value(1)?)?))),
    ("indexof", index_of),
    ("keys", |a| parts(a, |key, _| Value::string(key.as_str()))),
    ("length", length),
    ("lookup", lookup),
    ("merge", merge),
    ("range", range),
    ("reverselist", |a| a.exactly(1).and_then(|()| Ok(like(a.get(0)?, a.items(0)?.iter().rev().cloned())))),
    ("slice", slice),
    ("sort", sort),
    ("values", |a| parts(a, |_, value| value.clone())),
    ("zipmap", zip),
];

/// Items in the kind of list that another is.
fn like(model: &Value, items: impl Iterator<Item = Value>) -> Value {
    match model {
        Value::Sequence(Sequence::Tuple, _) => Value::tuple(items.collect()),
        _ => Value::list(items.collect()),
    }
}

fn chunks(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(2)?;
    let (items, size) = (a.items(0)?, a.size(1)?);
    let size = if size == 0 { items.len().max(1) } else { size };
    a.spend(64 * items.len())?;
    Ok(Value::list(items.chunks(size).map(|chunk| Value::list(chunk.to_vec())).collect()))
}

fn coalesce(a: &Arguments<'_>) -> Outcome<Value> {
    a.count(1, usize::MAX)?;
    let first = unify(a.values.to_vec()).into_iter().find(|value| !value.is_null());
    first.ok_or_else(|| "all arguments are null".into())
}

fn coalesce_list(a: &Arguments<'_>) -> Outcome<Value> {
    a.count(1, usize::MAX)?;
    for index in 0..a.values.len() {
        if !a.get(index)?.is_null() && !a.items(index)?.is_empty() {
            return Ok(a.get(index)?.clone());
        }
    }
    Err("all lists are empty".into())
}

fn compact(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(1)?;
    let mut texts = Vec::new();
    for item in a.items(0)?.iter().filter(|item| !item.is_null()) {
        let text = item.to_text()?;
        if !text.is_empty() {
            texts.push(Value::String(text));
        }
    }
    Ok(Value::list(texts))
}

fn concat(a: &Arguments<'_>) -> Outcome<Value> {
    a.count(1, usize::MAX)?;
    let mut all = Vec::new();
    for index in 0..a.values.len() {
        let items = a.items(index)?;
        a.spend(32 * items.len())?;
        all.extend(items.iter().cloned());
    }
    let lists = a.values.iter().all(|value| matches!(value, Value::Sequence(Sequence::List, _)));
    Ok(if lists { Value::list(unify(all)) } else { Value::tuple(all) })
}

fn distinct(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(1)?;
    let items = unify(a.items(0)?.to_vec());
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|x, y| items[*x].order(&items[*y]).then(x.cmp(y)));
    order.dedup_by(|later, first| items[*later] == items[*first]);
    order.sort_unstable();
    Ok(Value::list(order.into_iter().map(|index| items[index].clone()).collect()))
}

fn element(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(2)?;
    let (items, index) = (a.items(0)?, a.whole(1)?);
    if items.is_empty() {
        return Err("the list is empty".into());
    }
    let index = index.rem_euclid(items.len() as i128);
    Ok(items[usize::try_from(index).unwrap_or_default()].clone())
}

fn flatten(a: &Arguments<'_>, items: &[Value], out: &mut Vec<Value>) -> Outcome<()> {
    for item in items {
        match item {
            Value::Sequence(_, inner) => a.budget.deeper(|| flatten(a, inner, out))?,
            other => {
                a.spend(32)?;
                out.push(other.clone());
            }
        }
    }
    Ok(())
}

fn index_of(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(2)?;
    let wanted = a.get(1)?;
    let index = a.items(0)?.iter().position(|item| item == wanted);
    index.map(Value::count).ok_or_else(|| "the list has no such item".into())
}

fn parts(a: &Arguments<'_>, part: impl Fn(&String, &Value) -> Value) -> Outcome<Value> {
    a.exactly(1)?;
    let parts = a.entries(0)?.iter().map(|(key, value)| part(key, value)).collect();
    Ok(match a.get(0)? {
        Value::Mapping(Mapping::Object, _) => Value::tuple(parts),
        _ => Value::list(parts),
    })
}

fn length(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(1)?;
    match a.value(0)? {
        Value::Mapping(_, entries) => Ok(Value::count(entries.len())),
        _ => Ok(Value::count(a.items(0)?.len())),
    }
}

fn lookup(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(3)?;
    let key = a.text(1)?;
    Ok(a.entries(0)?.get(&*key).unwrap_or(a.get(2)?).clone())
}

fn merge(a: &Arguments<'_>) -> Outcome<Value> {
    let mut all = BTreeMap::new();
    let mut maps = true;
    for (index, value) in a.values.iter().enumerate().filter(|(_, value)| !value.is_null()) {
        maps &= matches!(value, Value::Mapping(Mapping::Map, _));
        a.spend(value.size())?;
        all.extend(a.entries(index)?.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    Ok(if maps && !all.is_empty() { Value::map(all) } else { Value::object(all) })
}

/// The most items of a range.
const MAX_RANGE: usize = 1024;

fn range(a: &Arguments<'_>) -> Outcome<Value> {
    use super::Number;
    a.count(1, 3)?;
    let zero = Number::Whole(0);
    let (start, end) = if a.values.len() == 1 { (zero, a.number(0)?) } else { (a.number(0)?, a.number(1)?) };
    let step = match a.values.len() {
        3 => a.number(2)?,
        _ if end < start => Number::Whole(-1),
        _ => Number::Whole(1),
    };
    if step == zero || (end < start) != (step < zero) && end != start {
        return Err("the step does not lead from the start to the end".into());
    }
    let mut items = Vec::new();
    let mut next = start;
    while if step > zero { next < end } else { next > end } {
        if items.len() == MAX_RANGE {
            return Err(format!("a range has at most {MAX_RANGE} items").into());
        }
        items.push(Value::Number(next));
        next = next.combine(step, i128::checked_add, |a, b| a + b).ok_or("the range is too long")?;
    }
    Ok(Value::list(items))
}

fn slice(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(3)?;
    let (items, start, end) = (a.items(0)?, a.size(1)?, a.size(2)?);
    let part = items.get(start..end);
    let part = part.ok_or_else(|| format!("{start} to {end} is not a part of a list of {}", items.len()))?;
    Ok(like(a.get(0)?, part.iter().cloned()))
}

fn sort(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(1)?;
    let mut texts: Vec<Arc<str>> = a.texts(0)?;
    texts.sort();
    Ok(Value::list(texts.into_iter().map(Value::String).collect()))
}

fn zip(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(2)?;
    let (keys, values) = (a.texts(0)?, a.items(1)?);
    if keys.len() != values.len() {
        return Err(format!("{} keys for {} values", keys.len(), values.len()).into());
    }
    let entries = keys.iter().map(ToString::to_string).zip(values.iter().cloned()).collect();
    let object = Value::object(entries);
    match a.get(1)? {
        Value::Sequence(Sequence::Tuple, _) => Ok(object),
        _ => Ok(object.convert(&Type::Map(Box::new(Type::Any)))?),
    }
}
