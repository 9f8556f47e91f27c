"""Turn documents into a token dataset."""
