"""Model components and optimizations."""
