"""Evaluators of answers: questions, choices, captions, and how replies are read."""
