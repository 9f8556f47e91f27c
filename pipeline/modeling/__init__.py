"""What makes the model fast."""
