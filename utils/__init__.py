"""Helpers shared by two or more stages. Nothing here imports a top-level module."""
