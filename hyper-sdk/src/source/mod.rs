//! Sources: images, local contexts, layouts, and what is fetched from elsewhere.

mod context;
mod image;
mod layout;
mod remote;
mod work_tree;

pub use context::{ignore_file, open_context};
pub use image::{ClientFactory, ImageSource, SourceImage};
pub use layout::{LayoutImage, import_layout};
pub use remote::{
    Fetched, ProxyChoice, RemoteOptions, RemoteSources, StreamContext, context_of_stream, git_source,
};
pub use work_tree::work_tree_time;
