"""Long work in resumable pieces."""
