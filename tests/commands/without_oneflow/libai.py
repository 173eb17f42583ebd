raise ImportError("--help must not load this")
