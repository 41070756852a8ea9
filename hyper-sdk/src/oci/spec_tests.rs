//! Tests with random values: conversions in both directions, and parsing of the JSON of Hyper with the types of
//! `oci_spec`.

use super::*;
use crate::platform::Platform;
use crate::{Digest, digest::Algorithm};
use oci_spec::image as spec;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

fn word() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9./+_-]{1,12}"
}

fn digest() -> impl Strategy<Value = Digest> {
    (any::<[u8; 4]>(), any::<bool>())
        .prop_map(|(bytes, long)| if long { Algorithm::Sha512.digest(&bytes) } else { Digest::sha256(bytes) })
}

fn annotations() -> impl Strategy<Value = Annotations> {
    btree_map(word(), ".{0,8}", 0..3)
}

fn platform() -> impl Strategy<Value = Platform> {
    let architectures = prop_oneof![
        word(),
        prop::sample::select(vec!["amd64", "arm", "armbe", "arm64be", "riscv64", "386", "loong64"])
            .prop_map(str::to_owned),
    ];
    let systems =
        prop_oneof![word(), prop::sample::select(vec!["linux", "windows", "zos"]).prop_map(str::to_owned)];
    (architectures, systems, option::of(word()), vec(word(), 0..3), option::of(word())).prop_map(
        |(architecture, os, os_version, os_features, variant)| Platform {
            architecture,
            os,
            os_version,
            os_features,
            variant,
        },
    )
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let optional = (option::of(word()), option::of(word()), option::of(platform()));
    (word(), digest(), any::<u64>(), vec(word(), 0..3), annotations(), optional).prop_map(
        |(media_type, digest, size, urls, annotations, (data, artifact_type, platform))| Descriptor {
            urls,
            annotations,
            data,
            artifact_type,
            platform,
            ..Descriptor::new(media_type, digest, size)
        },
    )
}

fn manifest() -> impl Strategy<Value = ImageManifest> {
    let optional = (option::of(word()), option::of(word()), option::of(descriptor()));
    (descriptor(), vec(descriptor(), 0..3), annotations(), optional).prop_map(
        |(config, layers, annotations, (media_type, artifact_type, subject))| ImageManifest {
            media_type,
            artifact_type,
            subject,
            annotations,
            ..ImageManifest::new(config, layers)
        },
    )
}

fn index() -> impl Strategy<Value = ImageIndex> {
    let optional = (option::of(word()), option::of(word()), option::of(descriptor()));
    (vec(descriptor(), 0..3), annotations(), optional).prop_map(
        |(manifests, annotations, (media_type, artifact_type, subject))| ImageIndex {
            media_type,
            artifact_type,
            subject,
            annotations,
            ..ImageIndex::new(manifests)
        },
    )
}

fn history() -> impl Strategy<Value = History> {
    (option::of(word()), option::of(word()), option::of(word()), option::of(word()), any::<bool>()).prop_map(
        |(created, created_by, author, comment, empty_layer)| History {
            created,
            created_by,
            author,
            comment,
            empty_layer,
            extra: Extra::new(),
        },
    )
}

fn container() -> impl Strategy<Value = ContainerConfig> {
    let set = || btree_map(word(), Just(json!({})), 0..3);
    let texts = ("[a-z:0-9]{0,5}", "[a-z/]{0,5}", option::of(word()));
    let words = (vec(word(), 0..3), option::of(vec(word(), 0..3)), option::of(vec(word(), 0..3)));
    (texts, words, set(), set(), annotations()).prop_map(
        |((user, working_dir, stop_signal), (env, entrypoint, cmd), exposed_ports, volumes, labels)| {
            ContainerConfig {
                user,
                exposed_ports,
                env,
                entrypoint,
                cmd,
                volumes,
                working_dir,
                labels,
                stop_signal,
                ..ContainerConfig::default()
            }
        },
    )
}

fn config() -> impl Strategy<Value = ImageConfig> {
    let texts = (option::of(word()), option::of(word()));
    (texts, platform(), container(), vec(digest(), 0..3), vec(history(), 0..3)).prop_map(
        |((created, author), platform, config, diff_ids, history)| ImageConfig {
            created,
            author,
            config,
            rootfs: RootFs { diff_ids, ..RootFs::default() },
            history,
            os_features: platform.os_features.clone(),
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant,
            os_version: platform.os_version,
            extra: Extra::new(),
        },
    )
}

/// Checks that a value is the same after a conversion to the other type and back.
fn there_and_back<T, S>(value: T) -> Result<(), TestCaseError>
where
    T: Clone + PartialEq + std::fmt::Debug + TryFrom<S>,
    S: From<T> + Clone + PartialEq + std::fmt::Debug,
    <T as TryFrom<S>>::Error: std::fmt::Debug,
{
    let other = S::from(value.clone());
    let back = T::try_from(other.clone()).unwrap();
    prop_assert_eq!(&back, &value);
    prop_assert_eq!(S::from(back), other);
    Ok(())
}

/// Checks that the other types parse the JSON of Hyper as the same value. Their platform has other names for the
/// version and the features of a system, and parses `armbe` differently.
fn read_by_spec<T, S>(value: &T) -> S
where
    T: serde::Serialize,
    S: serde::de::DeserializeOwned,
{
    serde_json::from_slice(&serde_json::to_vec(value).unwrap()).unwrap()
}

fn plain(mut descriptor: Descriptor) -> Descriptor {
    if let Some(platform) = &mut descriptor.platform {
        (platform.os_version, platform.os_features) = (None, Vec::new());
        platform.architecture = platform.architecture.replace("armbe", "arm");
    }
    descriptor
}

proptest! {
    #[test]
    fn values_are_converted_in_both_directions(
        platform in platform(),
        descriptor in descriptor(),
        manifest in manifest(),
        index in index(),
        history in history(),
        container in container(),
        config in config(),
    ) {
        there_and_back::<Platform, spec::Platform>(platform)?;
        there_and_back::<Descriptor, spec::Descriptor>(descriptor)?;
        there_and_back::<ImageManifest, spec::ImageManifest>(manifest)?;
        there_and_back::<ImageIndex, spec::ImageIndex>(index)?;
        there_and_back::<History, spec::History>(history)?;
        there_and_back::<ContainerConfig, spec::Config>(container)?;
        there_and_back::<ImageConfig, spec::ImageConfiguration>(config)?;
    }

    #[test]
    fn the_json_of_hyper_parses_as_the_same_value(
        descriptor in descriptor(),
        manifest in manifest(),
        index in index(),
        mut config in config(),
    ) {
        let descriptor = plain(descriptor);
        prop_assert_eq!(read_by_spec::<_, spec::Descriptor>(&descriptor), descriptor.into());
        let mut manifest = manifest;
        manifest.config = plain(manifest.config);
        manifest.layers = manifest.layers.into_iter().map(plain).collect();
        manifest.subject = manifest.subject.map(plain);
        prop_assert_eq!(read_by_spec::<_, spec::ImageManifest>(&manifest), manifest.into());
        let mut index = index;
        index.manifests = index.manifests.into_iter().map(plain).collect();
        index.subject = index.subject.map(plain);
        prop_assert_eq!(read_by_spec::<_, spec::ImageIndex>(&index), index.into());
        config.architecture = config.architecture.replace("armbe", "arm");
        // The order of these is not kept.
        config.config.exposed_ports.clear();
        config.config.volumes.clear();
        prop_assert_eq!(read_by_spec::<_, spec::ImageConfiguration>(&config), config.into());
    }
}

#[test]
fn failed_and_lossy_conversions_are_documented() {
    let other: spec::Digest = format!("sha384:{}", "a".repeat(96)).parse().unwrap();
    let descriptor = spec::Descriptor::new(spec::MediaType::ImageManifest, 1, other);
    assert!(Descriptor::try_from(descriptor).is_err());
    let mut rootfs = spec::RootFs::default();
    rootfs.set_diff_ids(vec!["nonsense".to_owned()]);
    assert!(RootFs::try_from(rootfs).is_err());
    let mut config = ImageConfig::empty(&Platform::host());
    config.config.shell = Some(vec!["sh".to_owned()]);
    config.extra.insert("new".to_owned(), json!(1));
    let back = ImageConfig::try_from(spec::ImageConfiguration::from(config.clone())).unwrap();
    (config.config.shell, config.extra) = (None, Extra::new());
    assert_eq!(back, config);
}

#[test]
fn compressions_are_media_types_of_layers() {
    use crate::media_type::Compression;
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let media_type = spec::MediaType::from(compression);
        assert_eq!(Compression::try_from(&media_type).unwrap(), compression);
    }
    assert_eq!(spec::MediaType::from(Compression::Zstd), spec::MediaType::ImageLayerZstd);
    assert!(Compression::try_from(&spec::MediaType::ImageConfig).is_err());
}
