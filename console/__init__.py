"""The modules of `Inference.py`: menus, one model, several side by side."""
