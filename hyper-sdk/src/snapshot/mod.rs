//! Snapshotters: root file systems out of layers.
