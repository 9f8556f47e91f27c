"""What train.py is made of: where training begins, and how a run is put together."""
