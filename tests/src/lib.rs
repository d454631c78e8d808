//! The outer ring: unmodified Spark on a cluster in processes of its own. See `tests/`.
