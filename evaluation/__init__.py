"""What benchmark.py measures with: items, scores, statistics, reports."""
