"""Everything behind the stage scripts, a folder per room."""
