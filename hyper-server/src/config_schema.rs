//! The JSON Schema of the configuration file, for editors and checks, and the list of its keys.
//!
//! It is derived from the types of [`Config`], with the shapes of `config_shapes`.
//! The defaults are those of [`REFERENCE`].

use crate::config::{Config, REFERENCE};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema, in draft 2020-12.
pub(crate) fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    without_null(&mut schema);
    if let Ok(defaults) = toml::from_str::<Map<String, Value>>(REFERENCE) {
        add_defaults(&mut schema, &defaults);
    }
    schema["title"] = json!("Configuration of hyperregistry");
    schema
}

/// TOML has no null: a key without a value is left out.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Array(types)) = members.get_mut("type") {
                types.retain(|name| name != "null");
                if let [one] = types.as_slice() {
                    let one = one.clone();
                    members.insert("type".to_owned(), one);
                }
            }
            // A number that may be null has that as its default; the defaults come from the reference.
            members.retain(|name, value| !(name == "default" && value.is_null()));
            members.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

fn add_defaults(schema: &mut Value, defaults: &Map<String, Value>) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (key, property) in properties {
        match (defaults.get(key), property.as_object_mut()) {
            (Some(Value::Object(table)), _) => add_defaults(property, table),
            (Some(default), Some(members)) => {
                members.insert("default".to_owned(), default.clone());
            }
            _ => {}
        }
    }
}

/// The path of a table of the configuration that has something else in a file: the reader takes a list for a table, and what
/// comes over the file would then be lost.
pub(crate) fn misused_table(file: &toml::Table) -> Option<String> {
    fn find(schema: &Value, table: &toml::Table) -> Option<String> {
        let named = schema["properties"].as_object().into_iter().flatten();
        named.filter(|(_, property)| property["properties"].is_object()).find_map(|(name, property)| {
            match table.get(name)? {
                toml::Value::Table(inner) => Some(format!("{name}.{}", find(property, inner)?)),
                _ => Some(name.clone()),
            }
        })
    }
    find(&schema(), file)
}

/// How the value of a key is written in one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As it is.
    Text,
    /// `true` or `false`.
    Boolean,
    /// A number.
    Integer,
    /// Texts with commas between them.
    List,
}

/// A key that has a value, not a table.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// The tables that it is in, and its name.
    pub(crate) path: Vec<String>,
    pub(crate) kind: Kind,
}

/// All keys that have a value, in the order of the schema.
pub(crate) fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    collect(&schema(), &mut Vec::new(), &mut keys);
    keys
}

fn collect(schema: &Value, path: &mut Vec<String>, keys: &mut Vec<Key>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        if property["properties"].is_object() {
            collect(property, path, keys);
        } else if !property["items"]["properties"].is_object()
            && !property["additionalProperties"].is_object()
        {
            // A list of tables, and a table of any keys, are written in the file alone.
            keys.push(Key { path: path.clone(), kind: kind(&property["type"]) });
        }
        path.pop();
    }
}

fn kind(types: &Value) -> Kind {
    let is = |name: &str| types == name || types.as_array().is_some_and(|all| all.iter().any(|t| t == name));
    match () {
        () if is("array") => Kind::List,
        () if is("boolean") => Kind::Boolean,
        () if is("integer") && !is("string") => Kind::Integer,
        () => Kind::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The keys that the program accepts in a table, from the error for one that it does not.
    fn accepted(table: &str) -> BTreeSet<String> {
        let text =
            if table.is_empty() { "no-such = 1".to_owned() } else { format!("[{table}]\nno-such = 1") };
        let error = Config::read(&text).unwrap_err().to_string();
        let (_, list) = error.split_once("expected ").unwrap();
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    fn compare(schema: &Value, table: &str, tables: &mut usize) {
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(properties.keys().cloned().collect::<BTreeSet<_>>(), accepted(table), "[{table}]");
        assert_eq!(schema["additionalProperties"], false, "[{table}]");
        *tables += 1;
        for (name, property) in properties.iter().filter(|(_, property)| property["properties"].is_object()) {
            let inner = if table.is_empty() { name.clone() } else { format!("{table}.{name}") };
            compare(property, &inner, tables);
        }
    }

    #[test]
    fn the_schema_has_exactly_the_keys_that_the_program_accepts() {
        let mut tables = 0;
        compare(&schema(), "", &mut tables);
        assert!(tables >= 12, "{tables} tables");
    }

    #[test]
    fn a_list_of_tables_has_exactly_the_keys_that_the_program_accepts() {
        let rule = &schema()["properties"]["retention"]["properties"]["rule"]["items"];
        let error = Config::read("[[retention.rule]]\nno-such = 1").unwrap_err().to_string();
        let (_, list) = error.split_once("expected ").unwrap();
        let accepted: BTreeSet<&str> = list.split('`').skip(1).step_by(2).collect();
        let properties = rule["properties"].as_object().unwrap();
        assert_eq!(properties.keys().map(String::as_str).collect::<BTreeSet<_>>(), accepted);
        assert_eq!(
            (&rule["additionalProperties"], &rule["required"]),
            (&json!(false), &json!(["repositories"]))
        );
        assert!(keys().iter().all(|key| key.path.join(".") != "retention.rule"), "it has no variable");
    }

    #[test]
    fn every_key_has_a_description_and_a_type() {
        fn check(schema: &Value) {
            for (name, property) in schema["properties"].as_object().unwrap() {
                assert!(property["description"].is_string(), "{name}: {property}");
                assert!(property["type"].is_string() || property["type"].is_array(), "{name}: {property}");
                assert!(!property.to_string().contains("null"), "{name}: {property}");
                for inner in [property, &property["items"]] {
                    if inner["properties"].is_object() {
                        check(inner);
                    }
                }
            }
        }
        check(&schema());
    }

    #[test]
    fn the_defaults_in_the_schema_are_those_of_the_program() {
        let schema = schema();
        let limits = &schema["properties"]["limits"]["properties"];
        assert_eq!(limits["manifest"]["default"], "4224KiB");
        assert_eq!(limits["page"]["default"], 10_000);
        assert_eq!(schema["properties"]["read-only"]["default"], false);
        assert!(schema["properties"]["auth"]["properties"]["htpasswd"].get("default").is_none());
    }

    #[test]
    fn the_values_that_the_schema_lists_are_accepted() {
        fn check(schema: &Value, table: &str, seen: &mut usize) {
            for (name, property) in schema["properties"].as_object().unwrap() {
                if property["properties"].is_object() {
                    let inner = if table.is_empty() { name.clone() } else { format!("{table}.{name}") };
                    check(property, &inner, seen);
                }
                for value in property["enum"].as_array().into_iter().flatten() {
                    let text = format!("[{table}]\n{name} = {value}");
                    Config::read(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
                    *seen += 1;
                }
            }
        }
        let mut seen = 0;
        check(&schema(), "", &mut seen);
        assert_eq!(seen, 13);
    }

    #[test]
    fn keys_have_the_kind_of_their_values() {
        let keys = keys();
        let kind = |path: &str| keys.iter().find(|key| key.path.join(".") == path).unwrap().kind;
        assert_eq!(kind("listen"), Kind::List);
        assert_eq!(kind("trusted-proxies"), Kind::List);
        assert_eq!(kind("sparse"), Kind::Boolean);
        assert_eq!(kind("limits.page"), Kind::Integer);
        assert_eq!(kind("limits.manifest"), Kind::Text);
        assert_eq!(kind("limits.user.requests-at-once"), Kind::Integer);
        assert_eq!(kind("database.url"), Kind::Text);
    }
}
