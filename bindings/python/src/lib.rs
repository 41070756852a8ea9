//! Python bindings of hyper-sdk.
