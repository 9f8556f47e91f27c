"""What two or more stages share. Nothing here imports a top-level module."""
