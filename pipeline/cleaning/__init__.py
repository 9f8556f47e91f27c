"""Turn raw records into clean articles."""
