//! (purpose: see ARCHITECTURE.md)
