//! Exporters of build results.
