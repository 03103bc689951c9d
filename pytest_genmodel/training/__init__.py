"""Trainers, and what is seen of them from outside."""
