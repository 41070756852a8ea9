//! Values of variables from the environment and from `--var`.

use super::entries;
use super::number::Number;
use super::value::{Type, Value};
use crate::dockerfile::csv_fields;
use std::collections::BTreeMap;

/// The value that a text gives a variable: of its declared type, else of the type of its default.
pub(super) fn override_value(
    text: &str,
    is_json: bool,
    declared: Option<&Type>,
    default: Option<&Value>,
) -> Result<Value, String> {
    match (declared, default) {
        (Some(to), _) if is_json => {
            let json = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
            Value::from_json(&json).convert(to)
        }
        (Some(to @ (Type::Bool | Type::Number | Type::String | Type::Any)), _) => primitive(text, to),
        (Some(to), _) => of_csv(text, to),
        (None, None | Some(Value::Null)) => Ok(Value::string(text)),
        (None, Some(default @ (Value::Bool(_) | Value::Number(_) | Value::String(_)))) => {
            primitive(text, &default.type_of())
        }
        (None, Some(other)) => Err(format!("a {} needs a `type` to be overridden", other.kind())),
    }
}

fn primitive(text: &str, to: &Type) -> Result<Value, String> {
    match to {
        Type::String | Type::Any => Ok(Value::string(text)),
        Type::Bool => entries::bool(text).map(Value::Bool).ok_or_else(|| "expected true or false".to_owned()),
        Type::Number => Number::parse(text).map(Value::Number).ok_or_else(|| "expected a number".to_owned()),
        other => Err(format!("a {other} is not written as CSV: set the variable NAME_JSON")),
    }
}

/// A list, or a map of `KEY:VALUE`, as CSV.
fn of_csv(text: &str, to: &Type) -> Result<Value, String> {
    let fields = if text.is_empty() { Vec::new() } else { csv_fields(text)? };
    let all = |of: &Type| fields.iter().map(|field| primitive(field, of)).collect::<Result<Vec<_>, _>>();
    match to {
        Type::List(of) => Ok(Value::list(all(of)?)),
        Type::Set(of) => Ok(Value::set(all(of)?)),
        Type::Tuple(types) if types.len() == fields.len() => {
            let items = fields.iter().zip(types).map(|(field, to)| primitive(field, to));
            Ok(Value::tuple(items.collect::<Result<_, _>>()?))
        }
        Type::Tuple(types) => Err(format!("expected {} items, found {}", types.len(), fields.len())),
        Type::Map(of) => {
            let mut map = BTreeMap::new();
            for field in &fields {
                let (key, value) =
                    field.split_once(':').ok_or_else(|| format!("`{field}`: expected KEY:VALUE"))?;
                map.insert(key.to_owned(), primitive(value, of)?);
            }
            Ok(Value::map(map))
        }
        other => primitive("", other),
    }
}
