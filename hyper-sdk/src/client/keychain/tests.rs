//! The suite on every keychain of the SDK, and on faulty keychains that it must catch.

use super::conformance::{self as cases, KeychainEntry};
use super::*;
use crate::testing::is_caught;
use std::fmt;

/// A keychain of hosts alone.
fn fixed(entries: &[KeychainEntry]) -> Option<StaticKeychain> {
    entries.iter().try_fold(StaticKeychain::anonymous(), |keychain, entry| {
        entry.namespace.is_none().then(|| keychain.with(entry.host.clone(), entry.credentials.clone()))
    })
}

mod fixed {
    use super::*;

    async fn fixture(entries: Vec<KeychainEntry>) -> Option<(SharedKeychain, ())> {
        Some((Arc::new(fixed(&entries)?), ()))
    }
    crate::keychain_conformance!(fixture);
}

mod chain {
    use super::*;

    async fn fixture(entries: Vec<KeychainEntry>) -> Option<(SharedKeychain, ())> {
        let links = entries.iter().map(|entry| fixed(std::slice::from_ref(entry)));
        let links: Option<Vec<SharedKeychain>> = links.map(|link| Some(Arc::new(link?) as _)).collect();
        Some((Arc::new(KeychainChain::new(links?)), ()))
    }
    crate::keychain_conformance!(fixture);
}

mod file {
    use super::*;

    async fn fixture(entries: Vec<KeychainEntry>) -> Option<(SharedKeychain, tempfile::TempDir)> {
        let folder = tempfile::tempdir().unwrap();
        let config = DockerConfig::new(folder.path().join("config.json"));
        for entry in entries {
            config.store(&entry.host, entry.namespace.as_ref(), &entry.credentials).await.unwrap();
        }
        Some((Arc::new(config), folder))
    }
    crate::keychain_conformance!(fixture);
}

/// A fault of a keychain.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    KnowsNobody,
    TrustsEverybody,
    FailsForStrangers,
    IgnoresThePort,
    TrustsSubdomains,
    TrustsLongerNames,
    HasNoNamespaces,
    ComparesText,
    TakesTheShortest,
    GivesNamespacesToAll,
    GivesANamespaceToItsHost,
    IgnoresTheHostOfANamespace,
    WantsNoRepository,
    CutsAtAColon,
    Trims,
    MakesTokensPasswords,
    AnswersOnce,
    HasOneAnswer,
    Prints,
}

#[derive(Clone)]
struct Faulty {
    fault: Fault,
    entries: Vec<KeychainEntry>,
    asked: Arc<std::sync::Mutex<Option<Credentials>>>,
}

impl Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")?;
        for entry in self.entries.iter().filter(|_| self.fault == Fault::Prints) {
            if let Credentials::Basic { password, .. } = &entry.credentials {
                write!(f, "({})", password.expose())?;
            }
        }
        Ok(())
    }
}

impl Faulty {
    fn matches(
        &self,
        entry: &KeychainEntry,
        host: &RegistryHost,
        repository: Option<&RepositoryName>,
    ) -> bool {
        let (own, asked) = (entry.host.as_str(), host.as_str());
        let same_host = match self.fault {
            Fault::TrustsEverybody => true,
            Fault::IgnoresThePort => own.split(':').next() == asked.split(':').next(),
            Fault::TrustsSubdomains => asked.ends_with(own),
            Fault::TrustsLongerNames => asked.starts_with(own),
            Fault::IgnoresTheHostOfANamespace if entry.namespace.is_some() => true,
            _ => own == asked,
        };
        let Some(namespace) = &entry.namespace else {
            return same_host && (self.fault != Fault::WantsNoRepository || repository.is_none());
        };
        let Some(repository) = repository else {
            return self.fault == Fault::GivesANamespaceToItsHost && same_host;
        };
        let (namespace, repository) = (namespace.as_str(), repository.as_str());
        let below = repository == namespace || repository.starts_with(&format!("{namespace}/"));
        same_host
            && match self.fault {
                Fault::HasNoNamespaces => false,
                Fault::ComparesText => repository.starts_with(namespace),
                Fault::GivesNamespacesToAll => true,
                _ => below,
            }
    }
}

#[async_trait]
impl Keychain for Faulty {
    async fn get(&self, host: &RegistryHost, repository: Option<&RepositoryName>) -> Result<Credentials> {
        let found = self.entries.iter().filter(|entry| self.matches(entry, host, repository));
        let length = |entry: &&KeychainEntry| entry.namespace.as_ref().map_or(0, |name| name.as_str().len());
        let found = match self.fault {
            Fault::TakesTheShortest => found.min_by_key(length),
            _ => found.max_by_key(length),
        };
        let found = found.map(|entry| entry.credentials.clone()).unwrap_or_default();
        let mut asked = self.asked.lock().unwrap();
        let before = asked.replace(found.clone());
        Ok(match (self.fault, found) {
            (Fault::KnowsNobody, _) => Credentials::Anonymous,
            (Fault::FailsForStrangers, Credentials::Anonymous) => {
                return Err(crate::Error::new(crate::ErrorKind::NotFound, "nobody knows this host"));
            }
            (Fault::CutsAtAColon, Credentials::Basic { username, password }) => {
                Credentials::basic(username, password.expose().split(':').next().unwrap_or_default())
            }
            (Fault::Trims, Credentials::Basic { username, password }) => {
                Credentials::basic(username, password.expose().trim())
            }
            (Fault::MakesTokensPasswords, Credentials::IdentityToken(token) | Credentials::Bearer(token)) => {
                Credentials::basic("token", token)
            }
            (Fault::AnswersOnce, _) if before.is_some() => Credentials::Anonymous,
            (Fault::HasOneAnswer, found) => before.unwrap_or(found),
            (_, found) => found,
        })
    }
}

#[tokio::test]
async fn the_suite_catches_every_faulty_keychain() {
    macro_rules! caught {
        ($($fault:ident by $($case:ident),+;)+) => {$($(
            let fixture = async |entries: Vec<KeychainEntry>| {
                let keychain = Faulty { fault: Fault::$fault, entries, asked: Arc::default() };
                Some((Arc::new(keychain) as SharedKeychain, ()))
            };
            assert!(
                is_caught(cases::$case(fixture)).await,
                "{} does not find the fault {}", stringify!($case), stringify!($fault)
            );
        )+)+};
    }
    caught! {
        KnowsNobody by credentials_of_a_host_are_found;
        TrustsEverybody by credentials_are_for_their_host_alone, each_host_has_its_own_credentials;
        FailsForStrangers by an_empty_keychain_is_anonymous;
        IgnoresThePort by a_port_is_part_of_the_host, an_ipv6_host_is_found;
        TrustsSubdomains by credentials_are_for_their_host_alone;
        TrustsLongerNames by credentials_are_for_their_host_alone;
        HasNoNamespaces by credentials_of_a_namespace_come_first;
        ComparesText by a_namespace_ends_at_a_slash;
        TakesTheShortest by credentials_of_a_namespace_come_first, the_longest_namespace_counts;
        GivesNamespacesToAll by a_namespace_ends_at_a_slash;
        GivesANamespaceToItsHost by a_namespace_is_not_the_host;
        IgnoresTheHostOfANamespace by a_namespace_is_of_its_host_alone;
        WantsNoRepository by credentials_of_a_host_are_for_all_its_repositories;
        CutsAtAColon by a_password_comes_back_whole;
        Trims by a_password_comes_back_whole;
        MakesTokensPasswords by an_identity_token_comes_back, a_bearer_token_comes_back;
        AnswersOnce by asking_changes_nothing;
        HasOneAnswer by asking_changes_nothing, many_tasks_get_the_same_answers;
        Prints by secrets_do_not_print;
    }
}

#[test]
fn secrets_are_never_printed() {
    let all = [
        Credentials::basic("joe", "hunter2"),
        Credentials::IdentityToken("hunter2".into()),
        Credentials::Bearer("hunter2".into()),
    ];
    assert!(!format!("{all:?}").contains("hunter2"));
}

#[tokio::test]
async fn the_first_keychain_with_credentials_answers() {
    let host = RegistryHost::parse("a.example").unwrap();
    let empty: SharedKeychain = Arc::new(StaticKeychain::anonymous());
    let one = Arc::new(StaticKeychain::default().with(host.clone(), Credentials::basic("1", "x")));
    let two = Arc::new(StaticKeychain::default().with(host.clone(), Credentials::basic("2", "x")));
    let chain = KeychainChain::new([empty, one, two]);
    assert_eq!(chain.get(&host, None).await.unwrap(), Credentials::basic("1", "x"));
    let other = RegistryHost::parse("b.example").unwrap();
    assert_eq!(chain.get(&other, None).await.unwrap(), Credentials::Anonymous);
}
