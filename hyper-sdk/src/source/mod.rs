//! Sources: images, local contexts, layouts.

mod context;
mod image;
mod layout;

pub use context::{open_context, work_tree_time};
pub use image::{ClientFactory, ImageSource, SourceImage};
pub use layout::{LayoutImage, import_layout};
