"""Check whether this machine can run the configured route, and whether its GPU computes correctly."""
