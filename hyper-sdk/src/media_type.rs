//! The media types of images, indexes, layers and artifacts.
