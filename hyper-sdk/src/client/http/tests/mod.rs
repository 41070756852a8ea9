//! Tests of the HTTP client against a scripted server.
