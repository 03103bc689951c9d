"""Saved runs: what was judged and compared, kept so that it can be judged again without a model."""
