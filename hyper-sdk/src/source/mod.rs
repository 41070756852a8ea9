//! Sources: images, local contexts, layouts, and what is fetched from elsewhere.

mod context;
mod image;
mod layout;
mod remote;
mod work_tree;

pub use context::{MAX_IGNORE_FILE, ignore_file, open_context, read_dockerfile};
pub use image::{ClientFactory, ImageSource, SourceImage};
pub use layout::{LayoutImage, import_layout};
pub use remote::{
    Fetched, ProxyChoice, RemoteOptions, RemoteSources, StreamContext, context_of_stream, git_source,
    newest_in_archive,
};
pub use work_tree::work_tree_time;
