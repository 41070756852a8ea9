//! Type constraints: `string`, `list(string)`, `object({port = number})` …

use super::ast::{Call, Expr, Kind};
use super::fault::{Fault, Outcome};
use super::value::Type;
use std::collections::BTreeMap;

/// The type that an expression names.
pub(super) fn constraint(expr: &Expr) -> Outcome<Type> {
    let wrong = || {
        Fault::at(expr.place, "this is not a type")
            .with_help("types are string, number, bool, any, list(T), set(T), map(T), tuple([T, …]) and object({NAME = T, …})")
    };
    match &expr.kind {
        Kind::Variable(name) => match name.as_str() {
            "any" => Ok(Type::Any),
            "bool" => Ok(Type::Bool),
            "number" => Ok(Type::Number),
            "string" => Ok(Type::String),
            _ => Err(wrong()),
        },
        Kind::Call(call) => {
            let Call { name, arguments, .. } = &**call;
            match (name.as_str(), arguments.as_slice()) {
                ("list", [of]) => Ok(Type::List(Box::new(constraint(of)?))),
                ("set", [of]) => Ok(Type::Set(Box::new(constraint(of)?))),
                ("map", [of]) => Ok(Type::Map(Box::new(constraint(of)?))),
                ("tuple", [Expr { kind: Kind::Tuple(items), .. }]) => {
                    Ok(Type::Tuple(items.iter().map(constraint).collect::<Outcome<_>>()?))
                }
                ("object", [Expr { kind: Kind::Object(entries), .. }]) => {
                    entries.iter().map(attribute).collect::<Outcome<BTreeMap<_, _>>>().map(Type::Object)
                }
                _ => Err(wrong()),
            }
        }
        _ => Err(wrong()),
    }
}

/// The name, type and optionality of an attribute of an object.
fn attribute((key, value): &(Expr, Expr)) -> Outcome<(String, (Type, bool))> {
    let Kind::String(name) = &key.kind else {
        return Err(Fault::at(key.place, "expected the name of an attribute"));
    };
    match &value.kind {
        Kind::Call(call) if call.name == "optional" && call.arguments.len() == 1 => {
            Ok((name.clone(), (constraint(&call.arguments[0])?, true)))
        }
        _ => Ok((name.clone(), (constraint(value)?, false))),
    }
}
