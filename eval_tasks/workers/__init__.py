"""Workers on Ray: what `mulo-meta-train` and `mulo-eval` share of it."""
