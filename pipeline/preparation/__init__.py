"""Documents become a token dataset."""
