"""Weights at rest: what a checkpoint holds, read without loading a model and without running its code."""
