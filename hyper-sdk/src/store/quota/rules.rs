//! The rules: which namespaces have a limit, and which.

use super::resource::{QuotaCounts, QuotaResource};
use crate::reference::RepositoryName;
use crate::{Error, QuotaExcess, Result};
use std::collections::HashMap;
use std::fmt;

/// A part of a registry that has a quota.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QuotaNamespace {
    /// The whole registry: `**`.
    All,
    /// Each first component of the names of repositories, on its own: `*`. A rule for such a component takes its place there.
    Each,
    /// This repository and everything below it: `team` has `team` and `team/app`, and not `team-b`.
    Of(RepositoryName),
}

impl QuotaNamespace {
    /// Parses `**`, `*` or the name of a repository.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] that says what a namespace is.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "**" => Ok(Self::All),
            "*" => Ok(Self::Each),
            name => RepositoryName::parse(name).map(Self::Of).map_err(|_| {
                let shown = name.escape_debug();
                let message = match name.strip_suffix("/**").or(name.strip_suffix("/*")) {
                    Some(start) if RepositoryName::parse(start).is_ok() => {
                        format!("invalid namespace `{shown}`: write `{start}`, which has everything below it too")
                    }
                    _ => format!(
                        "invalid namespace `{shown}`: write the name of a repository such as `team`, which has everything \
                         below it too, `**` for the whole registry, or `*` for each first component"
                    ),
                };
                Error::invalid(message)
            }),
        }
    }

    /// Whether a repository is in the namespace. Every repository is in a namespace of `*`.
    pub fn has(&self, repository: &RepositoryName) -> bool {
        match self {
            Self::All | Self::Each => true,
            Self::Of(name) => {
                let rest = repository.as_str().strip_prefix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    /// The namespaces that have a repository, the widest first. [`QuotaNamespace::Each`] is not among them: the first component
    /// of the name is.
    pub fn of_repository(repository: &RepositoryName) -> impl Iterator<Item = Self> {
        let name = repository.as_str();
        let ends = name.match_indices('/').map(|(at, _)| at).chain([name.len()]);
        std::iter::once(Self::All)
            .chain(ends.filter_map(|end| RepositoryName::parse(&name[..end]).ok().map(Self::Of)))
    }

    /// Whether it is the first component of names, for which a rule of `*` holds.
    fn is_first(&self) -> bool {
        matches!(self, Self::Of(name) if !name.as_str().contains('/'))
    }
}

impl fmt::Display for QuotaNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("**"),
            Self::Each => f.write_str("*"),
            Self::Of(name) => f.write_str(name.as_str()),
        }
    }
}

/// The limits of a namespace; `None` is no limit, and with 0 nothing can be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaLimits {
    /// The most bytes, of blobs and manifests, each counted once.
    pub bytes: Option<u64>,
    /// The most tags.
    pub tags: Option<u64>,
    /// The most manifests; one that is in two repositories counts twice.
    pub manifests: Option<u64>,
}

impl QuotaLimits {
    /// The limit of a resource.
    pub fn of(&self, resource: QuotaResource) -> Option<u64> {
        match resource {
            QuotaResource::Bytes => self.bytes,
            QuotaResource::Tags => self.tags,
            QuotaResource::Manifests => self.manifests,
        }
    }

    /// Checks that a namespace which uses `used` has any byte left.
    ///
    /// # Errors
    /// That of [`quota_exceeded`](crate::store::errors::quota_exceeded), with 0 as what is added.
    pub fn check_room(&self, namespace: &QuotaNamespace, used: QuotaCounts) -> Result<()> {
        let (namespace, resource) = (namespace.to_string(), QuotaResource::Bytes.name());
        match self.bytes {
            Some(limit) if used.bytes >= limit => {
                let excess = QuotaExcess { namespace, resource, used: used.bytes, added: 0, limit };
                Err(crate::store::errors::quota_exceeded(excess))
            }
            _ => Ok(()),
        }
    }

    /// Checks that a namespace which uses `used` may have `added` more. What adds nothing to a resource is not refused because
    /// of it.
    ///
    /// # Errors
    /// That of [`quota_exceeded`](crate::store::errors::quota_exceeded).
    pub fn check(&self, namespace: &QuotaNamespace, used: QuotaCounts, added: QuotaCounts) -> Result<()> {
        for resource in QuotaResource::ALL {
            let (used, added) = (used.of(resource), added.of(resource));
            if let Some(limit) = self.of(resource)
                && added > 0
                && used.saturating_add(added) > limit
            {
                let (namespace, resource) = (namespace.to_string(), resource.name());
                let excess = QuotaExcess { namespace, resource, used, added, limit };
                return Err(crate::store::errors::quota_exceeded(excess));
            }
        }
        Ok(())
    }
}

/// A namespace and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaRule {
    /// The namespace.
    pub namespace: QuotaNamespace,
    /// Its limits.
    pub limits: QuotaLimits,
}

/// The quotas of a registry. All rules hold that have a repository. Empty rules limit nothing.
///
/// ```
/// use hyper_sdk::store::{QuotaLimits, QuotaNamespace, QuotaRule, QuotaRules};
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let rules = QuotaRules::new(vec![QuotaRule {
///     namespace: QuotaNamespace::parse("team")?,
///     limits: QuotaLimits { bytes: Some(100 << 30), tags: Some(1000), manifests: None },
/// }])?;
/// assert_eq!(rules.as_slice().len(), 1);
/// assert!(QuotaRules::default().is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuotaRules {
    rules: Vec<QuotaRule>,
    by_namespace: HashMap<QuotaNamespace, QuotaLimits>,
}

impl QuotaRules {
    /// The most rules.
    pub const MAX_RULES: usize = 1000;

    /// These rules.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] that says which rule, counted from 1, is wrong: one without a limit, and one for the
    /// namespace of an earlier one; and when there are more than [`QuotaRules::MAX_RULES`].
    pub fn new(rules: Vec<QuotaRule>) -> Result<Self> {
        if rules.len() > Self::MAX_RULES {
            return Err(Error::invalid(format!("there are more than {} quotas", Self::MAX_RULES)));
        }
        let mut by_namespace = HashMap::new();
        for (at, QuotaRule { namespace, limits }) in rules.iter().enumerate() {
            if *limits == QuotaLimits::default() {
                return Err(Error::invalid(format!(
                    "quota {}: `{namespace}` has no limit: give it bytes, tags or manifests",
                    at + 1
                )));
            }
            if by_namespace.insert(namespace.clone(), *limits).is_some() {
                return Err(Error::invalid(format!(
                    "quota {}: `{namespace}` has a quota already: put all of its limits into one",
                    at + 1
                )));
            }
        }
        Ok(Self { rules, by_namespace })
    }

    /// The rules in their order.
    pub fn as_slice(&self) -> &[QuotaRule] {
        &self.rules
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The limits of a namespace, if it has any: its own rule, or for a first component that of [`QuotaNamespace::Each`].
    pub fn limits(&self, namespace: &QuotaNamespace) -> Option<QuotaLimits> {
        let each = || self.by_namespace.get(&QuotaNamespace::Each).filter(|_| namespace.is_first());
        self.by_namespace.get(namespace).or_else(each).copied()
    }

    /// Whether a rule names the namespace itself. That of [`QuotaNamespace::Each`] names no first component.
    pub fn names(&self, namespace: &QuotaNamespace) -> bool {
        self.by_namespace.contains_key(namespace)
    }

    /// The namespaces that have a repository and a limit, the widest first.
    pub fn covering(
        &self,
        repository: &RepositoryName,
    ) -> impl Iterator<Item = (QuotaNamespace, QuotaLimits)> + use<'_> {
        let namespaces: Vec<_> = match self.is_empty() {
            true => Vec::new(),
            false => QuotaNamespace::of_repository(repository).collect(),
        };
        namespaces.into_iter().filter_map(|namespace| {
            let limits = self.limits(&namespace)?;
            Some((namespace, limits))
        })
    }
}
