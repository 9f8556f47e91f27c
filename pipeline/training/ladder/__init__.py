"""The ladder: small training runs that predict the loss of the configured run before it starts."""
