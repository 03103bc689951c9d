"""Write the small sample checkpoints of `tests/checkpoints/data/` with the real libraries."""
