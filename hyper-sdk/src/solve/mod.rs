//! The solver: runs the vertices of a graph, in parallel, through the cache.
