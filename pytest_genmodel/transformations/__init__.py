"""What must not matter: done to a pipeline, or to the run around it."""
