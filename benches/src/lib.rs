//! The benchmarks are programs beside this empty library: `side_by_side.py` times builds beside buildah.
