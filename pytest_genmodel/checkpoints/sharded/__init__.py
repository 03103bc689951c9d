"""Weights that a distributed trainer has spread over the files of its ranks, put together tensor by tensor."""
