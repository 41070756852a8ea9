//! The benchmarks are programs beside this empty library: `side_by_side.py` times small builds beside BuildKit and
//! buildah, `real_builds.py` builds of real projects beside BuildKit.
