//! Evaluates the definitions of all files: variables, functions, and the blocks of targets and groups.
//!
//! Everything is evaluated when it is needed first, so that definitions can stand in any order. What needs itself is an error.

use super::ast::{Attribute, Block, Body, Expr, Kind, Place, Step};
use super::budget::Budget;
use super::entries;
use super::eval::{Names, Scope, evaluate};
use super::fault::{Fault, Outcome};
use super::functions::{self, World};
use super::overrides_of_variables::override_value;
use super::target::{Group, Target};
use super::types;
use super::value::{Type, Value};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The most targets that a matrix makes.
const MAX_MATRIX: usize = 10_000;

/// A variable, as `list=variables` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its type, when one is given.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its value; `None` is null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What all files define.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) groups: Vec<Group>,
    /// The targets of each matrix. A group of the same name takes precedence.
    pub(super) matrices: Vec<Group>,
    pub(super) targets: Vec<Target>,
    pub(super) variables: Vec<Variable>,
}

/// A block that makes a target or a group, once for each entry of its matrix.
struct Unit<'a> {
    block: &'a Block,
    scope: Scope<'a>,
    name: String,
}

/// What is evaluated at the moment or was.
#[derive(Default)]
struct State {
    values: BTreeMap<String, Value>,
    /// The values of attributes, by unit and name.
    attributes: BTreeMap<(usize, String), Value>,
    active: BTreeSet<String>,
}

struct Resolver<'a> {
    world: World<'a>,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    builtin: &'a BTreeMap<String, String>,
    variables: BTreeMap<&'a str, &'a Block>,
    globals: BTreeMap<&'a str, &'a Attribute>,
    functions: BTreeMap<&'a str, Function<'a>>,
    /// Set once, when the names of all targets are known.
    units: RefCell<Rc<Vec<Unit<'a>>>>,
    state: RefCell<State>,
    budget: Budget,
}

struct Function<'a> {
    parameters: Vec<&'a str>,
    rest: Option<&'a str>,
    result: &'a Expr,
}

/// Evaluates the files. `lookup` is the environment, and `builtin` has variables that no file can set.
pub(super) fn resolve<'a>(
    bodies: &'a [Body],
    world: World<'a>,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    builtin: &'a BTreeMap<String, String>,
) -> Outcome<Resolved> {
    let mut resolver = Resolver {
        world,
        lookup,
        builtin,
        variables: BTreeMap::new(),
        globals: BTreeMap::new(),
        functions: BTreeMap::new(),
        units: RefCell::default(),
        state: RefCell::default(),
        budget: Budget::new(),
    };
    let mut blocks = Vec::new();
    for body in bodies {
        for attribute in &body.attributes {
            if !matches!(attribute.name.as_str(), "target" | "group") {
                resolver.globals.insert(&attribute.name, attribute);
            }
        }
        for block in &body.blocks {
            let label = match block.labels.as_slice() {
                [label] => label.as_str(),
                _ if !matches!(block.kind.as_str(), "variable" | "function" | "target" | "group") => {
                    // Blocks of other kinds belong to other programs.
                    continue;
                }
                _ => {
                    let message = format!("a block `{}` has one label, its name", block.kind);
                    return Err(Fault::at(block.place, message));
                }
            };
            match block.kind.as_str() {
                "variable" => {
                    resolver.variables.insert(label, block);
                }
                "function" => {
                    resolver.functions.insert(label, function(block)?);
                }
                "target" | "group" => blocks.push(block),
                _ => {}
            }
        }
    }
    resolver.run(&blocks)
}

fn function(block: &Block) -> Outcome<Function<'_>> {
    let needed = |name: &str| {
        let attribute = block.body.attribute(name);
        attribute.ok_or_else(|| Fault::at(block.place, format!("the function has no `{name}`")))
    };
    let name = |expr: &'_ Expr| -> Outcome<()> {
        match expr.keyword() {
            Some(_) => Ok(()),
            None => Err(Fault::at(expr.place, "a parameter is a name")),
        }
    };
    let Kind::Tuple(parameters) = &needed("params")?.value.kind else {
        return Err(Fault::at(block.place, "`params` is a list of names"));
    };
    parameters.iter().try_for_each(name)?;
    let rest = block.body.attribute("variadic_params").map(|attribute| &attribute.value);
    rest.map(name).transpose()?;
    Ok(Function {
        parameters: parameters.iter().filter_map(Expr::keyword).collect(),
        rest: rest.and_then(Expr::keyword),
        result: &needed("result")?.value,
    })
}

impl<'a> Resolver<'a> {
    fn run(self, blocks: &[&'a Block]) -> Outcome<Resolved> {
        let variables = self.variables.keys().map(|name| self.listed(name)).collect::<Outcome<_>>()?;
        for block in self.variables.values() {
            self.validate(block)?;
        }
        let mut units = Vec::new();
        let mut renamed: Vec<Group> = Vec::new();
        for block in blocks {
            let (label, mut names) = (&block.labels[0], Vec::new());
            for scope in self.scopes(block)? {
                let name = self.name(block, &scope)?;
                if names.contains(&name) {
                    let message = format!("the matrix makes two targets with the name `{name}`");
                    return Err(Fault::at(block.place, message));
                }
                names.push(name.clone());
                units.push(Unit { block, scope, name });
            }
            if names != [label.as_str()] {
                match renamed.iter_mut().find(|group| group.name == *label) {
                    Some(group) => group.targets.extend(names),
                    None => renamed.push(Group { name: label.clone(), targets: names, ..Group::default() }),
                }
            }
        }
        *self.units.borrow_mut() = Rc::new(units);
        let units = self.units.borrow().clone();
        let mut resolved = Resolved { variables, ..Resolved::default() };
        for (index, unit) in units.iter().enumerate() {
            if unit.block.kind == "group" {
                let group = self.group(index, unit)?;
                match resolved.groups.iter_mut().find(|other| other.name == group.name) {
                    Some(other) => *other = group,
                    None => resolved.groups.push(group),
                }
            } else {
                let target = self.target(index, unit)?;
                match resolved.targets.iter_mut().find(|other| other.name == target.name) {
                    Some(other) => other.merge(&target),
                    None => resolved.targets.push(target),
                }
            }
        }
        resolved.matrices = renamed;
        for name in self.globals.keys() {
            self.value_of(name)?;
        }
        Ok(resolved)
    }

    fn evaluate(&self, expr: &Expr) -> Outcome<Value> {
        evaluate(expr, &Scope::default(), self)
    }

    /// Runs something that must not need itself.
    fn once<T>(&self, what: String, run: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        if !self.state.borrow_mut().active.insert(what.clone()) {
            return Err(Fault::fatal(format!("{what} needs itself")));
        }
        let outcome = run();
        self.state.borrow_mut().active.remove(&what);
        outcome
    }

    fn value_of(&self, name: &str) -> Outcome<Value> {
        if let Some(value) = self.builtin.get(name) {
            return Ok(Value::string(value.as_str()));
        }
        if let Some(value) = self.state.borrow().values.get(name) {
            return Ok(value.clone());
        }
        let value = self.once(format!("the variable `{name}`"), || self.compute(name))?;
        self.state.borrow_mut().values.insert(name.to_owned(), value.clone());
        Ok(value)
    }

    /// The type that a variable is declared with.
    fn declared(&self, block: &Block) -> Outcome<Option<Type>> {
        match block.body.attribute("type") {
            None => Ok(None),
            Some(attribute) if matches!(attribute.value.kind, Kind::Null) => Ok(None),
            Some(attribute) => types::constraint(&attribute.value).map(Some),
        }
    }

    fn compute(&self, name: &str) -> Outcome<Value> {
        let block = self.variables.get(name).copied();
        let (default, declared) = match (self.globals.get(name), block) {
            (Some(global), _) => (Some(&global.value), None),
            (None, Some(block)) => {
                (block.body.attribute("default").map(|default| &default.value), self.declared(block)?)
            }
            (None, None) => {
                let fault = Fault::new(format!("there is no variable `{name}`"));
                let names = self.variables.keys().chain(self.globals.keys()).copied();
                return Err(match crate::dockerfile::suggestion(name, names) {
                    Some(other) => fault.with_help(format!("did you mean `{other}`?")),
                    None => fault,
                });
            }
        };
        let mut value = match default {
            Some(expr) => {
                let value = self.evaluate(expr)?;
                match &declared {
                    Some(to) => value
                        .convert(to)
                        .map_err(|why| Fault::at(expr.place, format!("the default of `{name}`: {why}")))?,
                    None => value,
                }
            }
            None if declared.is_some() => Value::Null,
            None => Value::string(""),
        };
        if let Some(block) = block
            && let Some((text, is_json)) = self.given(name, declared.is_some())
        {
            let has_default = default.is_some();
            value = override_value(&text, is_json, declared.as_ref(), has_default.then_some(&value))
                .map_err(|why| Fault::at(block.place, format!("the value of `{name}`: {why}")))?;
        }
        Ok(value)
    }

    /// The value from the environment, and whether it is JSON: the variable `NAME`, or `NAME_JSON`.
    fn given(&self, name: &str, prefers_json: bool) -> Option<(String, bool)> {
        let plain = (self.lookup)(name);
        let json_name = format!("{name}_JSON");
        let is_free =
            !self.variables.contains_key(json_name.as_str()) && !self.builtin.contains_key(&json_name);
        if (plain.is_none() || prefers_json)
            && is_free
            && let Some(json) = (self.lookup)(&json_name)
        {
            return Some((json, true));
        }
        plain.map(|text| (text, false))
    }

    fn listed(&self, name: &str) -> Outcome<Variable> {
        let block = self.variables[name];
        let value = self.value_of(name).map_err(|fault| fault.or_at(block.place))?;
        let declared = self.declared(block)?;
        let description = match block.body.attribute("description") {
            Some(attribute) => self.evaluate(&attribute.value)?.to_text()?.to_string(),
            None => String::new(),
        };
        let value = match &value {
            Value::Null => None,
            Value::String(text) => Some(text.to_string()),
            Value::Number(_) | Value::Bool(_) => value.to_text().ok().map(|text| text.to_string()),
            other => Some(other.to_json().to_string()),
        };
        let kind = declared.map(|ty| ty.to_string()).unwrap_or_default();
        Ok(Variable { name: name.to_owned(), description, kind, value })
    }

    fn validate(&self, block: &Block) -> Outcome<()> {
        for rule in block.body.blocks.iter().filter(|block| block.kind == "validation") {
            let needed = |name: &str| {
                let attribute = rule.body.attribute(name);
                attribute.ok_or_else(|| Fault::at(rule.place, format!("the validation has no `{name}`")))
            };
            let condition = &needed("condition")?.value;
            let message = &needed("error_message")?.value;
            let holds = self.evaluate(condition)?;
            if !holds.to_bool().map_err(|why| Fault::at(condition.place, why))? {
                let message = self.evaluate(message)?.to_text()?;
                let message = format!("the variable `{}` is not valid: {message}", block.labels[0]);
                return Err(Fault::at(condition.place, message));
            }
        }
        Ok(())
    }

    /// The scopes of a block: one for each combination of its matrix.
    fn scopes(&self, block: &'a Block) -> Outcome<Vec<Scope<'a>>> {
        let Some(matrix) = block.body.attribute("matrix") else { return Ok(vec![Scope::default()]) };
        if block.kind == "group" {
            return Err(Fault::at(matrix.place, "a group has no matrix"));
        }
        let place = matrix.value.place;
        let value = self.evaluate(&matrix.value)?;
        let entries = value.entries().map_err(|_| Fault::at(place, "the matrix is not a map of lists"))?;
        let mut rows: Vec<BTreeMap<String, Value>> = vec![BTreeMap::new()];
        for (key, values) in entries.iter() {
            let values: Vec<Value> = match values {
                Value::Mapping(_, entries) => entries.values().cloned().collect(),
                values => {
                    let items = values.items();
                    items.map_err(|why| Fault::at(place, format!("the matrix `{key}`: {why}")))?.to_vec()
                }
            };
            if rows.len().saturating_mul(values.len()) > MAX_MATRIX {
                return Err(Fault::at(place, format!("the matrix makes more than {MAX_MATRIX} targets")));
            }
            let with = |row: &BTreeMap<String, Value>, value: &Value| {
                let mut row = row.clone();
                row.insert(key.clone(), value.clone());
                row
            };
            rows = values.iter().flat_map(|value| rows.iter().map(move |row| with(row, value))).collect();
        }
        Ok(rows.into_iter().map(|names| Scope { parent: None, names }).collect())
    }

    fn name(&self, block: &Block, scope: &Scope<'_>) -> Outcome<String> {
        let label = &block.labels[0];
        check_name(label, block.place)?;
        let Some(name) = block.body.attribute("name") else { return Ok(label.clone()) };
        if block.kind == "group" {
            return Err(Fault::at(name.place, "the name of a group is its label"));
        }
        if block.body.attribute("matrix").is_none() {
            return Err(Fault::at(name.place, "`name` needs a `matrix`: the name of a target is its label"));
        }
        let text = evaluate(&name.value, scope, self)?.to_text();
        let text = text.map_err(|why| Fault::at(name.value.place, why))?;
        check_name(&text, name.value.place)?;
        Ok(text.to_string())
    }

    /// The value of an attribute of a unit, as its kind wants it; null where the block does not have it.
    fn attribute(&self, index: usize, unit: &Unit<'_>, name: &str) -> Outcome<Value> {
        let key = (index, name.to_owned());
        if let Some(value) = self.state.borrow().attributes.get(&key) {
            return Ok(value.clone());
        }
        let Some(attribute) = unit.block.body.attribute(name) else { return Ok(Value::Null) };
        let what = format!("`{}.{}.{name}`", unit.block.kind, unit.name);
        let value = self.once(what, || evaluate(&attribute.value, &unit.scope, self))?;
        let value = typed(&unit.block.kind, name, &value)
            .map_err(|why| Fault::at(attribute.value.place, format!("`{name}`: {why}")))?;
        self.state.borrow_mut().attributes.insert(key, value.clone());
        Ok(value)
    }

    fn group(&self, index: usize, unit: &Unit<'_>) -> Outcome<Group> {
        if unit.block.body.attribute("targets").is_none() {
            return Err(Fault::at(unit.block.place, "the group has no `targets`"));
        }
        let description = self.attribute(index, unit, "description")?;
        let mut targets = texts(&self.attribute(index, unit, "targets")?)?.unwrap_or_default();
        super::target::once(&mut targets);
        Ok(Group { name: unit.name.clone(), description: text(&description)?.unwrap_or_default(), targets })
    }

    fn target(&self, index: usize, unit: &Unit<'_>) -> Outcome<Target> {
        let get = |name: &str| self.attribute(index, unit, name);
        // Read from the expression again, as `get` gives the form that other attributes refer to.
        fn read<T>(value: Value, read: impl Fn(&Value) -> Result<T, String>) -> Outcome<Option<T>> {
            if value.is_null() { Ok(None) } else { Ok(Some(read(&value)?)) }
        }
        Ok(Target {
            name: unit.name.clone(),
            description: text(&get("description")?)?,
            inherits: texts(&get("inherits")?)?.unwrap_or_default(),
            annotations: texts(&get("annotations")?)?,
            attest: read(get("attest")?, entries::attestations_of)?,
            context: text(&get("context")?)?,
            contexts: map(&get("contexts")?)?,
            dockerfile: text(&get("dockerfile")?)?,
            dockerfile_inline: text(&get("dockerfile-inline")?)?,
            args: map(&get("args")?)?,
            labels: map(&get("labels")?)?,
            tags: texts(&get("tags")?)?,
            cache_from: read(get("cache-from")?, entries::caches_of)?,
            cache_to: read(get("cache-to")?, entries::caches_of)?,
            target: text(&get("target")?)?,
            secret: read(get("secret")?, entries::secrets_of)?,
            ssh: read(get("ssh")?, entries::ssh_of)?,
            platforms: texts(&get("platforms")?)?,
            output: read(get("output")?, entries::outputs_of)?,
            pull: read(get("pull")?, Value::to_bool)?,
            no_cache: read(get("no-cache")?, Value::to_bool)?,
            network: text(&get("network")?)?,
            no_cache_filter: texts(&get("no-cache-filter")?)?,
            shm_size: text(&get("shm-size")?)?,
            ulimits: texts(&get("ulimits")?)?,
            resources: read(get("resources")?, entries::resources_of)?,
            call: text(&get("call")?)?,
            entitlements: texts(&get("entitlements")?)?,
            extra_hosts: map(&get("extra-hosts")?)?,
            policy: read(get("policy")?, entries::policies_of)?,
            linked: false,
        })
    }

    /// The value of `target.NAME.ATTRIBUTE` or `group.NAME.ATTRIBUTE`, and how many steps it takes.
    fn reference(&self, kind: &str, steps: &[Step]) -> Outcome<(Value, usize)> {
        let Some(Step::Attribute(name)) = steps.first() else {
            return Err(Fault::new(format!("`{kind}` is no variable: write `{kind}.NAME.ATTRIBUTE`")));
        };
        let units = self.units.borrow().clone();
        let own = |(_, unit): &(usize, &Unit<'a>)| unit.block.kind == kind && unit.name == *name;
        let of: Vec<(usize, &Unit<'a>)> = units.iter().enumerate().filter(own).collect();
        if of.is_empty() {
            return Err(Fault::new(format!("there is no {kind} `{name}`")));
        }
        match steps.get(1) {
            Some(Step::Attribute(attribute)) if attribute == "name" => Ok((Value::string(name.as_str()), 2)),
            Some(Step::Attribute(attribute)) => {
                if typed(kind, attribute, &Value::Null).is_err() {
                    return Err(Fault::new(format!("a {kind} has no attribute `{attribute}`")));
                }
                let has = |(_, unit): &&(usize, &Unit<'a>)| unit.block.body.attribute(attribute).is_some();
                let (index, unit) = of.iter().rev().find(has).unwrap_or(&of[0]);
                Ok((self.attribute(*index, unit, attribute)?, 2))
            }
            _ => {
                let mut all = BTreeMap::from([("name".to_owned(), Value::string(name.as_str()))]);
                for (index, unit) in of {
                    for attribute in &unit.block.body.attributes {
                        if typed(kind, &attribute.name, &Value::Null).is_ok() {
                            all.insert(attribute.name.clone(), self.attribute(index, unit, &attribute.name)?);
                        }
                    }
                }
                Ok((Value::object(all), 1))
            }
        }
    }
}

impl Names for Resolver<'_> {
    fn variable(&self, name: &str, steps: &[Step]) -> Outcome<(Value, usize)> {
        match name {
            "target" | "group" => self.reference(name, steps),
            name => Ok((self.value_of(name)?, 0)),
        }
    }

    fn call(&self, name: &str, arguments: &[Value]) -> Option<Outcome<Value>> {
        // The standard library goes first.
        let function = self.functions.get(name).filter(|_| !functions::exists(name))?;
        let named = function.parameters.len();
        if arguments.len() < named || (arguments.len() > named && function.rest.is_none()) {
            let least = if function.rest.is_some() { "at least " } else { "" };
            let found = arguments.len();
            return Some(Err(format!("expected {least}{named} arguments, found {found}").into()));
        }
        let mut names: BTreeMap<String, Value> = function
            .parameters
            .iter()
            .map(|name| (*name).to_owned())
            .zip(arguments.iter().cloned())
            .collect();
        if let Some(rest) = function.rest {
            names.insert(rest.to_owned(), Value::tuple(arguments[named..].to_vec()));
        }
        let scope = Scope { parent: None, names };
        Some(self.once(format!("the function `{name}`"), || evaluate(function.result, &scope, self)))
    }

    fn world(&self) -> &World<'_> {
        &self.world
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }
}

/// Fails for what is not a name of a target or group.
pub(super) fn check_name(name: &str, place: Place) -> Outcome<()> {
    match is_name(name) {
        true => Ok(()),
        false => {
            Err(Fault::at(place, format!("`{name}` is no name: letters, digits, `_` and `-` are allowed")))
        }
    }
}

/// Whether a text can name a target or group.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// The value of an attribute in the form that other attributes refer to.
fn typed(kind: &str, name: &str, value: &Value) -> Result<Value, String> {
    let list = || Type::List(Box::new(Type::String));
    let to = match (kind, name) {
        ("group", "targets") => list(),
        (_, "description") => Type::String,
        ("group", _) => return Err("it is unknown".to_owned()),
        (_, "context" | "dockerfile" | "dockerfile-inline" | "target" | "network" | "shm-size" | "call") => {
            Type::String
        }
        (_, "pull" | "no-cache") => Type::Bool,
        (_, "contexts" | "args" | "labels" | "extra-hosts") => Type::Map(Box::new(Type::String)),
        (
            _,
            "inherits" | "annotations" | "tags" | "platforms" | "no-cache-filter" | "ulimits"
            | "entitlements",
        ) => list(),
        (_, _) if value.is_null() => match name {
            "attest" | "cache-from" | "cache-to" | "output" | "secret" | "ssh" | "policy" | "resources" => {
                return Ok(Value::Null);
            }
            _ => return Err("it is unknown".to_owned()),
        },
        (_, "attest") => return Ok(entries::to_value(&entries::attestations_of(value)?)),
        (_, "cache-from" | "cache-to") => return Ok(entries::to_value(&entries::caches_of(value)?)),
        (_, "output") => return Ok(entries::to_value(&entries::outputs_of(value)?)),
        (_, "policy") => return Ok(entries::to_value(&entries::policies_of(value)?)),
        (_, "secret" | "ssh" | "resources") => return Ok(value.clone()),
        _ => return Err("it is unknown".to_owned()),
    };
    value.convert(&to)
}

fn text(value: &Value) -> Outcome<Option<String>> {
    if value.is_null() { Ok(None) } else { Ok(Some(value.to_text()?.to_string())) }
}

fn texts(value: &Value) -> Outcome<Option<Vec<String>>> {
    if value.is_null() {
        return Ok(None);
    }
    let present = value.items()?.iter().filter(|item| !item.is_null());
    Ok(Some(present.map(|item| Ok(item.to_text()?.to_string())).collect::<Outcome<_>>()?))
}

/// The entries that are not null.
fn map(value: &Value) -> Outcome<BTreeMap<String, String>> {
    if value.is_null() {
        return Ok(BTreeMap::new());
    }
    let present = value.entries()?.iter().filter(|(_, value)| !value.is_null());
    present.map(|(key, value)| Ok((key.clone(), value.to_text()?.to_string()))).collect()
}
