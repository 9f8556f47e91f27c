"""The rooms behind `server.py`: the engine that shares a model among requests, and the API in front of it."""
