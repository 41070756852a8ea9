//! Layers: tar, whiteouts, differences, compression and the index of a layer's files.
