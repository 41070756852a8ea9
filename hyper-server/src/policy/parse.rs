//! The text of a policy: TOML to rules, with the line of everything that is wrong.

use super::who::{Group, Member, Who};
use super::{Immutable, Operation, Operations, Policy, Rule};
use hyper_sdk::{RepositoryPattern, TextPattern};
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The most bytes of a policy.
const MAX_BYTES: usize = 1 << 20;
/// The most rules, and the most groups.
const MAX_RULES: usize = 4096;
/// The most entries of one list.
const MAX_ENTRIES: usize = 1024;
/// The longest text, in bytes.
const MAX_PATTERN: usize = TextPattern::MAX_BYTES;
/// The most problems that are reported.
const MAX_PROBLEMS: usize = 20;

/// Something that is wrong in a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: u32,
    /// What is wrong, with the key.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// The values of the keys of one table.
type Table<'i> = DeTable<'i>;

struct Reader {
    /// Where each line begins.
    lines: Vec<usize>,
    problems: Vec<Problem>,
}

pub(super) fn parse(text: &str) -> Result<Policy, Vec<Problem>> {
    let starts = text.match_indices('\n').map(|(at, _)| at + 1);
    let mut reader = Reader { lines: std::iter::once(0).chain(starts).collect(), problems: Vec::new() };
    if text.len() > MAX_BYTES {
        reader.problem(0, format!("the policy is larger than {MAX_BYTES} bytes"));
        return Err(reader.problems);
    }
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(e) => {
            let at = e.span().map_or(0, |span| span.start);
            reader.problem(at, e.message().trim().replace('\n', " "));
            return Err(reader.problems);
        }
    };
    let policy = reader.policy(&table);
    if reader.problems.is_empty() {
        return Ok(policy);
    }
    reader.problems.sort_by_key(|problem| problem.line);
    reader.problems.truncate(MAX_PROBLEMS);
    Err(reader.problems)
}

impl Reader {
    fn line(&self, at: usize) -> u32 {
        u32::try_from(self.lines.partition_point(|start| *start <= at)).unwrap_or(u32::MAX)
    }

    fn problem(&mut self, at: usize, message: impl Into<String>) {
        let line = self.line(at);
        self.problems.push(Problem { line, message: message.into() });
    }

    fn policy(&mut self, table: &Table<'_>) -> Policy {
        let (mut groups, mut rules, mut immutable) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(value) = table.get("groups") {
            groups = self.groups(value);
        }
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "groups" => {}
                kind @ ("allow" | "deny") => {
                    for (at, table) in self.tables(kind, value) {
                        rules.extend(self.rule(kind, at, table, &groups));
                    }
                }
                "immutable" => {
                    for (at, table) in self.tables("immutable", value) {
                        immutable.extend(self.immutable(at, table));
                    }
                }
                other => {
                    let known = "use [groups], [[allow]], [[deny]] and [[immutable]]";
                    self.problem(
                        key.span().start,
                        format!("unknown key `{}`: {known}", other.escape_debug()),
                    );
                }
            }
        }
        if rules.len() > MAX_RULES || immutable.len() > MAX_RULES {
            self.problem(0, format!("the policy has more than {MAX_RULES} rules"));
        }
        Policy::new(groups, rules, immutable)
    }

    /// The tables of an array of tables.
    fn tables<'v, 'i>(&mut self, key: &str, value: &'v Spanned<DeValue<'i>>) -> Vec<(usize, &'v Table<'i>)> {
        let Some(array) = value.get_ref().as_array() else {
            self.problem(value.span().start, format!("`{key}` must be a list of tables: write [[{key}]]"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for entry in array.iter() {
            match entry.get_ref().as_table() {
                Some(table) => tables.push((entry.span().start, table)),
                None => {
                    self.problem(
                        entry.span().start,
                        format!("`{key}` must be a list of tables: write [[{key}]]"),
                    );
                }
            }
        }
        tables
    }

    fn groups(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<Group> {
        let Some(table) = value.get_ref().as_table() else {
            self.problem(value.span().start, "`groups` must be a table: write [groups]");
            return Vec::new();
        };
        let mut groups = Vec::new();
        for (name, members) in table {
            let key = format!("groups.{}", name.get_ref().escape_debug());
            let mut who = Who::default();
            for (at, text) in self.texts(&key, members) {
                let added = match Member::parse(text) {
                    Ok(Member::Group(_)) => Err("a group has no groups as members".to_owned()),
                    Ok(member) => who.add(member, |_| None),
                    Err(e) => Err(e),
                };
                if let Err(e) = added {
                    self.problem(at, format!("`{key}`: {e}"));
                }
            }
            groups.push(Group { name: name.get_ref().to_string(), members: who });
        }
        if groups.len() > MAX_RULES {
            self.problem(value.span().start, format!("`groups` has more than {MAX_RULES} groups"));
        }
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        groups
    }

    /// The texts of a list.
    fn texts<'v>(&mut self, key: &str, value: &'v Spanned<DeValue<'_>>) -> Vec<(usize, &'v str)> {
        let at = value.span().start;
        let Some(array) = value.get_ref().as_array() else {
            self.problem(at, format!("`{key}` must be a list of texts"));
            return Vec::new();
        };
        if array.len() > MAX_ENTRIES {
            self.problem(at, format!("`{key}` has more than {MAX_ENTRIES} entries"));
            return Vec::new();
        }
        if array.is_empty() && key == "tags" {
            self.problem(at, "`tags` is empty: name tags, `*` for all");
        }
        let mut texts = Vec::new();
        for entry in array.iter() {
            match entry.get_ref().as_str() {
                Some(text) if text.len() <= MAX_PATTERN => texts.push((entry.span().start, text)),
                Some(_) => {
                    self.problem(
                        entry.span().start,
                        format!("`{key}`: a text is longer than {MAX_PATTERN} bytes"),
                    );
                }
                None => self.problem(entry.span().start, format!("`{key}` must be a list of texts")),
            }
        }
        texts
    }

    /// The lists of a rule under these keys. Other keys are unknown, and those that are not optional must be there.
    fn lists<'v, const N: usize>(
        &mut self,
        kind: &str,
        at: usize,
        table: &'v Table<'_>,
        keys: [(&str, bool); N],
    ) -> [Vec<(usize, &'v str)>; N] {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if !keys.iter().any(|(known, _)| *known == name) {
                let known = keys.map(|(known, _)| known).join(", ");
                let message = format!("unknown key `{}` in [[{kind}]]: use {known}", name.escape_debug());
                self.problem(key.span().start, message);
            }
        }
        keys.map(|(key, is_needed)| match table.get(key) {
            Some(value) => self.texts(key, value),
            None => {
                if is_needed {
                    self.problem(at, format!("[[{kind}]] has no `{key}`"));
                }
                Vec::new()
            }
        })
    }

    fn rule(&mut self, kind: &str, at: usize, table: &Table<'_>, groups: &[Group]) -> Option<Rule> {
        let before = self.problems.len();
        let keys = [("who", true), ("repositories", true), ("actions", true), ("tags", false)];
        let [members, names, actions, tags] = self.lists(kind, at, table, keys);
        let mut who = Who::default();
        for (at, text) in members {
            let find = |name: &str| groups.binary_search_by(|group| group.name.as_str().cmp(name)).ok();
            if let Err(e) = Member::parse(text).and_then(|member| who.add(member, find)) {
                self.problem(at, format!("`who`: {e}"));
            }
        }
        let mut operations = Operations::default();
        for (at, text) in actions {
            match text.parse::<Operation>() {
                Ok(operation) if tags.is_empty() || may_have_tags(kind, operation) => {
                    operations.insert(operation);
                }
                Ok(operation) => self.problem(
                    at,
                    format!(
                        "`actions`: `tags` limits create-tag and move-tag alone, and delete in [[deny]]: give {operation} a \
                         rule of its own"
                    ),
                ),
                Err(e) => self.problem(at, format!("`actions`: {e}")),
            }
        }
        let (repositories, tags) = (self.repositories(names), self.tags(tags));
        let is_whole = self.problems.len() == before;
        let line = self.line(at);
        is_whole.then_some(Rule { line, allow: kind == "allow", who, repositories, operations, tags })
    }

    fn immutable(&mut self, at: usize, table: &Table<'_>) -> Option<Immutable> {
        let before = self.problems.len();
        let [names, tags] = self.lists("immutable", at, table, [("repositories", true), ("tags", true)]);
        let (repositories, tags) = (self.repositories(names), self.tags(tags));
        let line = self.line(at);
        (self.problems.len() == before).then_some(Immutable { line, repositories, tags })
    }

    fn repositories(&mut self, texts: Vec<(usize, &str)>) -> Vec<RepositoryPattern> {
        let mut patterns = Vec::with_capacity(texts.len());
        for (at, text) in texts {
            match RepositoryPattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(e) => {
                    self.problem(at, format!("`repositories`: `{}`: {}", text.escape_debug(), e.message()))
                }
            }
        }
        patterns
    }

    fn tags(&mut self, texts: Vec<(usize, &str)>) -> Vec<TextPattern> {
        let mut patterns = Vec::with_capacity(texts.len());
        for (at, text) in texts {
            match TextPattern::of_tags(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(e) => self.problem(at, format!("`tags`: {}", e.message())),
            }
        }
        patterns
    }
}

/// Whether a rule of this kind may limit an action to tags. A deletion may take many tags: it can be denied for some of them,
/// not allowed for some.
fn may_have_tags(kind: &str, operation: Operation) -> bool {
    match operation {
        Operation::CreateTag | Operation::MoveTag => true,
        Operation::Delete => kind == "deny",
        _ => false,
    }
}
