"""Baselines: a small file that stands in for the reference; fingerprints, sketches and observations, no weights."""
