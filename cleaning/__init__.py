"""What the cleaner is made of: readers of each kind of article, the policy, the run."""
