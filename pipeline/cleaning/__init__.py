"""Raw records become clean articles."""
