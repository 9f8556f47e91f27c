"""Turn token datasets into batches."""
