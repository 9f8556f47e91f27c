"""One owner for each format on disk."""
