"""What the project's web pages share: the theme, and serving of packaged files."""
