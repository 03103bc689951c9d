"""Views of a run: text for people, JSON for machines.

PYTEST_DONT_REWRITE
"""
