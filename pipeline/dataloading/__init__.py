"""Token datasets become batches."""
