"""Repository checks: the import graph and its picture, mutation tests."""
