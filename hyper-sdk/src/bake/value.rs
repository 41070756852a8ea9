//! Values and types of the language, and conversions between them.
//!
//! A sequence or a mapping of literals (tuple, object) has elements of any types; one that was converted (list, set, map) has
//! elements of one type. Both behave alike but for `==` and the functions that ask.

use super::number::Number;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(Arc<str>),
    Sequence(Sequence, Arc<Vec<Value>>),
    Mapping(Mapping, Arc<BTreeMap<String, Value>>),
}

/// A kind of sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sequence {
    Tuple,
    List,
    Set,
}

/// A kind of mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mapping {
    Object,
    Map,
}

/// A type constraint.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    Any,
    Bool,
    Number,
    String,
    List(Box<Type>),
    Set(Box<Type>),
    Map(Box<Type>),
    Tuple(Vec<Type>),
    /// The types of the attributes, and whether each may be left out.
    Object(BTreeMap<String, (Type, bool)>),
}

impl Value {
    pub(super) fn string(text: impl Into<Arc<str>>) -> Self {
        Self::String(text.into())
    }

    pub(super) fn whole(number: impl Into<i128>) -> Self {
        Self::Number(Number::Whole(number.into()))
    }

    pub(super) fn count(number: usize) -> Self {
        Self::Number(Number::Whole(number as i128))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Self {
        Self::Sequence(Sequence::Tuple, Arc::new(items))
    }

    pub(super) fn list(items: Vec<Value>) -> Self {
        Self::Sequence(Sequence::List, Arc::new(items))
    }

    /// A set: sorted, each value once.
    pub(super) fn set(mut items: Vec<Value>) -> Self {
        items.sort_by(Value::order);
        items.dedup();
        Self::Sequence(Sequence::Set, Arc::new(items))
    }

    pub(super) fn object(entries: BTreeMap<String, Value>) -> Self {
        Self::Mapping(Mapping::Object, Arc::new(entries))
    }

    pub(super) fn map(entries: BTreeMap<String, Value>) -> Self {
        Self::Mapping(Mapping::Map, Arc::new(entries))
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// What the value is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Sequence(Sequence::Tuple, _) => "tuple",
            Self::Sequence(Sequence::List, _) => "list",
            Self::Sequence(Sequence::Set, _) => "set",
            Self::Mapping(Mapping::Object, _) => "object",
            Self::Mapping(Mapping::Map, _) => "map",
        }
    }

    /// About how many bytes a copy of it takes, not counting what it shares.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::String(text) => 32 + text.len(),
            Self::Sequence(_, items) => 32 + 32 * items.len(),
            Self::Mapping(_, entries) => 32 + entries.keys().map(|key| 64 + key.len()).sum::<usize>(),
            _ => 32,
        }
    }

    /// A total order: by kind, then by content.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        fn rank(value: &Value) -> u8 {
            match value {
                Value::Null => 0,
                Value::Bool(_) => 1,
                Value::Number(_) => 2,
                Value::String(_) => 3,
                Value::Sequence(..) => 4,
                Value::Mapping(..) => 5,
            }
        }
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) => a.cmp(b),
            (Self::Sequence(ka, a), Self::Sequence(kb, b)) => {
                let pairs = a.iter().zip(b.iter()).map(|(a, b)| a.order(b));
                ka.cmp(kb).then(first_difference(pairs)).then(a.len().cmp(&b.len()))
            }
            (Self::Mapping(ka, a), Self::Mapping(kb, b)) => {
                let pairs = a.iter().zip(b.iter()).map(|((ka, a), (kb, b))| ka.cmp(kb).then(a.order(b)));
                ka.cmp(kb).then(first_difference(pairs)).then(a.len().cmp(&b.len()))
            }
            _ => rank(self).cmp(&rank(other)),
        }
    }

    /// The type of the value. An empty collection has elements of any type.
    pub(super) fn type_of(&self) -> Type {
        let first = |items: &Vec<Value>| Box::new(items.first().map_or(Type::Any, Value::type_of));
        match self {
            Self::Null => Type::Any,
            Self::Bool(_) => Type::Bool,
            Self::Number(_) => Type::Number,
            Self::String(_) => Type::String,
            Self::Sequence(Sequence::Tuple, items) => Type::Tuple(items.iter().map(Value::type_of).collect()),
            Self::Sequence(Sequence::List, items) => Type::List(first(items)),
            Self::Sequence(Sequence::Set, items) => Type::Set(first(items)),
            Self::Mapping(Mapping::Map, entries) => {
                Type::Map(Box::new(entries.values().next().map_or(Type::Any, Value::type_of)))
            }
            Self::Mapping(Mapping::Object, entries) => Type::Object(
                entries.iter().map(|(key, value)| (key.clone(), (value.type_of(), false))).collect(),
            ),
        }
    }

    /// The text of a string, number or bool.
    pub(super) fn to_text(&self) -> Result<Arc<str>, String> {
        match self {
            Self::String(text) => Ok(text.clone()),
            Self::Number(number) => Ok(number.to_string().into()),
            Self::Bool(bool) => Ok(bool.to_string().into()),
            other => Err(format!("expected a string, found {}", with_article(other.kind()))),
        }
    }

    /// The number of a number, or of a string that is one.
    pub(super) fn to_number(&self) -> Result<Number, String> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::String(text) => {
                Number::parse(text).ok_or_else(|| "expected a number, found another string".to_owned())
            }
            other => Err(format!("expected a number, found {}", with_article(other.kind()))),
        }
    }

    /// The truth of a bool, or of a string that is one.
    pub(super) fn to_bool(&self) -> Result<bool, String> {
        match self {
            Self::Bool(bool) => Ok(*bool),
            Self::String(text) if matches!(&**text, "true" | "1") => Ok(true),
            Self::String(text) if matches!(&**text, "false" | "0") => Ok(false),
            Self::String(_) => Err("expected true or false, found another string".to_owned()),
            other => Err(format!("expected a bool, found {}", with_article(other.kind()))),
        }
    }

    /// The items of a sequence.
    pub(super) fn items(&self) -> Result<&Arc<Vec<Value>>, String> {
        match self {
            Self::Sequence(_, items) => Ok(items),
            other => Err(format!("expected a list, found {}", with_article(other.kind()))),
        }
    }

    /// The entries of a mapping.
    pub(super) fn entries(&self) -> Result<&Arc<BTreeMap<String, Value>>, String> {
        match self {
            Self::Mapping(_, entries) => Ok(entries),
            other => Err(format!("expected a map, found {}", with_article(other.kind()))),
        }
    }

    /// The item with an index or key.
    pub(super) fn at(&self, key: &Value) -> Result<Value, String> {
        match self {
            Self::Mapping(_, entries) => {
                let key = key.to_text()?;
                entries.get(&*key).cloned().ok_or_else(|| format!("there is no key `{key}`"))
            }
            Self::Sequence(Sequence::Set, _) => Err("a set has no indexes".to_owned()),
            Self::Sequence(_, items) => {
                let number = key.to_number()?;
                let item = number.as_index().and_then(|index| items.get(index));
                item.cloned().ok_or_else(|| format!("there is no item {number} in a list of {}", items.len()))
            }
            other => Err(format!("{} has no items", with_article(other.kind()))),
        }
    }

    /// Converts a value to a type. Null converts to every type.
    pub(super) fn convert(&self, to: &Type) -> Result<Value, String> {
        let each = |items: &[Value], to: &Type| {
            let items: Result<Vec<_>, _> = items.iter().map(|item| item.convert(to)).collect();
            items.map(|items| if *to == Type::Any { unify(items) } else { items })
        };
        let expected =
            || format!("expected {}, found {}", with_article(&to.to_string()), with_article(self.kind()));
        match (to, self) {
            (_, Self::Null) => Ok(Self::Null),
            (Type::Any, value) => Ok(value.clone()),
            (Type::String, value) => value.to_text().map(Self::String),
            (Type::Number, value) => value.to_number().map(Self::Number),
            (Type::Bool, value) => value.to_bool().map(Self::Bool),
            (Type::List(to), Self::Sequence(_, items)) => Ok(Self::list(each(items, to)?)),
            (Type::Set(to), Self::Sequence(_, items)) => Ok(Self::set(each(items, to)?)),
            (Type::Map(to), Self::Mapping(_, entries)) => {
                let values: Vec<Value> = entries.values().cloned().collect();
                let values = each(&values, to)?;
                Ok(Self::map(entries.keys().cloned().zip(values).collect()))
            }
            (Type::Tuple(types), Self::Sequence(_, items)) if types.len() == items.len() => {
                let items: Result<Vec<_>, _> = items.iter().zip(types).map(|(i, t)| i.convert(t)).collect();
                Ok(Self::tuple(items?))
            }
            (Type::Object(types), Self::Mapping(_, entries)) => {
                let mut converted = BTreeMap::new();
                for (name, (to, optional)) in types {
                    let value = match entries.get(name) {
                        Some(value) => {
                            value.convert(to).map_err(|why| format!("attribute `{name}`: {why}"))?
                        }
                        None if *optional => Self::Null,
                        None => return Err(format!("the attribute `{name}` is missing")),
                    };
                    converted.insert(name.clone(), value);
                }
                Ok(Self::object(converted))
            }
            _ => Err(expected()),
        }
    }

    /// The value as JSON.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(bool) => (*bool).into(),
            Self::String(text) => (**text).into(),
            Self::Number(number) => match number {
                Number::Whole(whole) => match (i64::try_from(*whole), u64::try_from(*whole)) {
                    (Ok(number), _) => number.into(),
                    (_, Ok(number)) => number.into(),
                    _ => serde_json::Number::from_f64(number.as_f64()).into(),
                },
                Number::Float(float) => serde_json::Number::from_f64(*float).into(),
            },
            Self::Sequence(_, items) => items.iter().map(Value::to_json).collect(),
            Self::Mapping(_, entries) => serde_json::Value::Object(
                entries.iter().map(|(key, value)| (key.clone(), value.to_json())).collect(),
            ),
        }
    }

    /// The value of JSON.
    pub(super) fn from_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(bool) => Self::Bool(*bool),
            serde_json::Value::String(text) => Self::string(text.as_str()),
            serde_json::Value::Number(number) => {
                Number::parse(&number.to_string()).map_or(Self::Null, Self::Number)
            }
            serde_json::Value::Array(items) => Self::tuple(items.iter().map(Self::from_json).collect()),
            serde_json::Value::Object(entries) => Self::object(
                entries.iter().map(|(key, value)| (key.clone(), Self::from_json(value))).collect(),
            ),
        }
    }
}

fn first_difference(mut orders: impl Iterator<Item = Ordering>) -> Ordering {
    orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// A word with `a` or `an`.
pub(super) fn with_article(word: &str) -> String {
    match word.chars().next() {
        _ if word == "null" => word.to_owned(),
        Some('a' | 'e' | 'i' | 'o' | 'u') => format!("an {word}"),
        _ => format!("a {word}"),
    }
}

/// Gives values one type where a conversion without loss does so: primitive values become strings when one of them is a
/// string, tuples of different lengths become lists, and tuples beside sets become sets. What cannot be unified stays as it is.
pub(super) fn unify(values: Vec<Value>) -> Vec<Value> {
    let present = || values.iter().filter(|value| !value.is_null());
    let Some(first) = present().next() else { return values };
    if present().all(|value| matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))) {
        let has_string = present().any(|value| matches!(value, Value::String(_)));
        let mixed = present().any(|value| value.kind() != first.kind());
        let text = |value: &Value| value.convert(&Type::String).unwrap_or_else(|_| value.clone());
        return if has_string && mixed { values.iter().map(text).collect() } else { values };
    }
    let (sequences, mappings) = (
        present().all(|value| matches!(value, Value::Sequence(..))),
        present().all(|value| matches!(value, Value::Mapping(..))),
    );
    let ty = first.type_of();
    if present().all(|value| value.type_of() == ty) {
        return values;
    }
    let any = Box::new(Type::Any);
    let has = |kind| present().any(|value| matches!(value, Value::Sequence(own, _) if *own == kind));
    let to = match () {
        () if sequences && has(Sequence::Set) && !has(Sequence::List) => Type::Set(any),
        () if sequences => Type::List(any),
        () if mappings && same_keys(&values) => return values,
        () if mappings => Type::Map(any),
        () => return values,
    };
    values.iter().map(|value| value.convert(&to).unwrap_or_else(|_| value.clone())).collect()
}

fn same_keys(values: &[Value]) -> bool {
    let mut keys = values.iter().filter_map(|value| match value {
        Value::Mapping(Mapping::Object, entries) => Some(entries.keys().collect::<Vec<_>>()),
        _ => None,
    });
    let first = keys.next();
    keys.all(|other| Some(&other) == first.as_ref())
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Bool => f.write_str("bool"),
            Self::Number => f.write_str("number"),
            Self::String => f.write_str("string"),
            Self::List(of) => write!(f, "list of {of}"),
            Self::Set(of) => write!(f, "set of {of}"),
            Self::Map(of) => write!(f, "map of {of}"),
            Self::Tuple(_) => f.write_str("tuple"),
            Self::Object(_) => f.write_str("object"),
        }
    }
}
