"""Evaluation of label maps on disk against label maps with exact classes."""
