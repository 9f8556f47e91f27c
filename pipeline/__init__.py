"""The code behind the stage scripts, one package per room."""
