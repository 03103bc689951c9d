"""The report as one HTML page that needs nothing else: no network, no second file.

PYTEST_DONT_REWRITE
"""
