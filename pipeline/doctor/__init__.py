"""Whether this machine can run the configured route, and whether its GPU computes what it should."""
