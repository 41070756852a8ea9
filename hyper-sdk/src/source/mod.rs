//! Sources: images, local contexts, layouts.
