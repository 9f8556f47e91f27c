"""What the quickstart trains on and asks."""
