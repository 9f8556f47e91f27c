"""The on-disk formats, with one module for each."""
