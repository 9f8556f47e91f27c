"""What keeps the house in order: the import graph and its picture, mutation tests."""
