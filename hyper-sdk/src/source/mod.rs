//! Sources: images, local contexts, layouts.

mod context;
mod image;
mod layout;
mod work_tree;

pub use context::open_context;
pub use image::{ClientFactory, ImageSource, SourceImage};
pub use layout::{LayoutImage, import_layout};
pub use work_tree::work_tree_time;
