//! From all definitions to the targets that a caller asks for.

use super::fault::{Fault, Outcome};
use super::overrides::Overrides;
use super::paths;
use super::target::{Group, Target};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What to build: the targets that were asked for, and those that they need.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BakePlan {
    /// The groups that were asked for. `default` has what was asked for.
    #[serde(rename = "group", skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, Group>,
    /// The targets, by name.
    #[serde(rename = "target")]
    pub targets: BTreeMap<String, Target>,
}

/// The targets and groups of all files.
#[derive(Debug)]
pub(super) struct Config<'a> {
    pub(super) groups: &'a [Group],
    pub(super) targets: &'a [Target],
}

impl Config<'_> {
    /// Plans what `names` ask for.
    pub(super) fn plan(&self, names: &[String], overrides: &Overrides) -> Outcome<BakePlan> {
        let mut asked: Vec<String> = Vec::new();
        for name in names {
            asked.extend(self.matching(&name.replace('.', "_"))?);
        }
        super::target::once(&mut asked);
        let mut plan = BakePlan::default();
        for name in &asked {
            let (targets, groups) = self.members(name);
            for target in targets {
                if !plan.targets.contains_key(&target) {
                    plan.targets.insert(target.clone(), self.target(&target, overrides)?);
                }
            }
            for group in groups {
                if let Some(found) = self.groups.iter().find(|other| other.name == group) {
                    plan.groups.insert(group, found.clone());
                }
            }
        }
        for name in &asked {
            if name == "default" && plan.groups.contains_key(name) {
                continue;
            }
            let group = plan.groups.entry("default".to_owned()).or_default();
            "default".clone_into(&mut group.name);
            group.targets.push(name.clone());
        }
        if let Some(group) = plan.groups.get_mut("default") {
            super::target::once(&mut group.targets);
            group.targets.sort();
        }
        for name in plan.targets.keys().cloned().collect::<Vec<_>>() {
            self.link(&name, &mut plan.targets, overrides, &mut Vec::new(), &mut BTreeSet::new())?;
        }
        Ok(plan)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let groups = self.groups.iter().map(|group| group.name.as_str());
        groups.chain(self.targets.iter().map(|target| target.name.as_str()))
    }

    /// The groups and targets that a name or pattern means.
    fn matching(&self, pattern: &str) -> Outcome<Vec<String>> {
        if !pattern.contains(['*', '?', '[', ']']) {
            return Ok(vec![pattern.to_owned()]);
        }
        let matching = |name: &&str| paths::matches(pattern, name) == Some(true);
        let names: Vec<String> = self.names().filter(matching).map(str::to_owned).collect();
        match names.is_empty() {
            true => Err(format!("no target matches `{pattern}`").into()),
            false => Ok(names),
        }
    }

    /// The targets of a group, and the groups in it; another name is a target.
    fn members(&self, name: &str) -> (Vec<String>, Vec<String>) {
        let (mut targets, mut groups) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        let mut open = vec![name];
        while let Some(next) = open.pop() {
            if !seen.insert(next) {
                // A matrix may make a target with the name of its own group.
                if groups.iter().any(|group| group == next)
                    && self.targets.iter().any(|target| target.name == next)
                    && !targets.iter().any(|target| target == next)
                {
                    targets.push(next.to_owned());
                }
                continue;
            }
            match self.groups.iter().find(|group| group.name == next) {
                None => targets.push(next.to_owned()),
                Some(group) => {
                    groups.push(next.to_owned());
                    open.extend(group.targets.iter().rev().map(String::as_str));
                }
            }
        }
        (targets, groups)
    }

    /// A target with what it inherits, the changes of the caller, and the defaults.
    fn target(&self, name: &str, overrides: &Overrides) -> Outcome<Target> {
        let mut target = self.inherited(name, overrides, &mut BTreeMap::new(), 0)?.unwrap_or_default();
        target.inherits.clear();
        name.clone_into(&mut target.name);
        let context = match target.context.as_deref().unwrap_or(".") {
            "-" => return Err(format!("the context of `{name}` cannot be standard input").into()),
            context if context.starts_with("cwd://") => paths::clean(context.trim_start_matches("cwd://")),
            context if paths::is_remote(context) => context.to_owned(),
            context => paths::clean(context),
        };
        target.context = Some(context);
        match target.dockerfile.as_deref() {
            Some("-") => return Err(format!("the Dockerfile of `{name}` cannot be standard input").into()),
            None | Some("") => target.dockerfile = Some("Dockerfile".to_owned()),
            _ => {}
        }
        Ok(target)
    }

    /// `None` while the target is evaluated further up.
    fn inherited(
        &self,
        name: &str,
        overrides: &Overrides,
        visited: &mut BTreeMap<String, Option<Target>>,
        depth: usize,
    ) -> Outcome<Option<Target>> {
        if let Some(target) = visited.get(name) {
            return Ok(target.clone());
        }
        if depth > MAX_INHERITED {
            return Err(format!("targets inherit through more than {MAX_INHERITED} levels").into());
        }
        visited.insert(name.to_owned(), None);
        let Some(own) = self.targets.iter().find(|target| target.name == name) else {
            let fault = Fault::new(format!("there is no target `{name}`"));
            return Err(match crate::dockerfile::suggestion(name, self.names()) {
                Some(other) => fault.with_help(format!("did you mean `{other}`?")),
                None if name == "default" => fault.with_help("name the targets to build"),
                None => fault,
            });
        };
        let mut target = Target::default();
        for parent in &own.inherits {
            if let Some(parent) = self.inherited(parent, overrides, visited, depth + 1)? {
                target.merge(&parent);
            }
        }
        target.merge(own);
        name.clone_into(&mut target.name);
        overrides.apply(&mut target)?;
        target.normalize();
        visited.insert(name.to_owned(), Some(target.clone()));
        Ok(Some(target))
    }

    /// Adds the targets that a target uses as contexts.
    fn link(
        &self,
        name: &str,
        targets: &mut BTreeMap<String, Target>,
        overrides: &Overrides,
        above: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Outcome<()> {
        if !done.insert(name.to_owned()) {
            return Ok(());
        }
        if above.len() > MAX_INHERITED {
            return Err(format!("targets need each other through more than {MAX_INHERITED} levels").into());
        }
        above.push(name.to_owned());
        for other in needed(&targets[name]) {
            if other == name {
                return Err(format!("the target `{name}` is a context of itself").into());
            }
            if above.contains(&other) {
                return Err(format!("the targets `{name}` and `{other}` need each other").into());
            }
            if !targets.contains_key(&other) {
                let mut target = self.target(&other, overrides)?;
                target.output = Some(vec![[("type".to_owned(), "cacheonly".to_owned())].into()]);
                target.linked = true;
                targets.insert(other.clone(), target);
            }
            self.link(&other, targets, overrides, above, done)?;
            let (own, linked) = (&targets[name], &targets[&other]);
            let platforms = |target: &Target| target.platforms.clone().unwrap_or_default();
            let (wanted, made) = (platforms(own), platforms(linked));
            if wanted.len() > 1 && made.len() > 1 && !wanted.iter().all(|one| made.contains(one)) {
                let message = format!(
                    "the target `{name}` is built for platforms that `{other}`, which it needs, is not"
                );
                return Err(message.into());
            }
            let permissions = linked.entitlements.clone().unwrap_or_default();
            if let Some(own) = targets.get_mut(name).filter(|_| !permissions.is_empty()) {
                let entitlements = own.entitlements.get_or_insert_default();
                entitlements.extend(permissions);
                super::target::once(entitlements);
            }
        }
        above.pop();
        Ok(())
    }
}

/// The most levels of inheritance, and of targets that need others.
const MAX_INHERITED: usize = 100;

/// The names of the targets that a target uses as contexts.
pub fn needed(target: &Target) -> Vec<String> {
    let contexts = target.contexts.values().filter_map(|context| context.strip_prefix("target:"));
    contexts.map(str::to_owned).collect()
}
