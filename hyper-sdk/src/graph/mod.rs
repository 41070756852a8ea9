//! The build graph: vertices, operations and their content addresses.
