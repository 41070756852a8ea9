//! Frontends: from a source text to a graph and an image config.
