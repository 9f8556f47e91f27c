"""The runs page: training runs as they are recorded in logs, checkpoint folders and benchmark results."""
