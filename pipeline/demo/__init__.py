"""The quickstart: its corpus, questions and stages."""
