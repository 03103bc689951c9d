"""From a checkpoint to a live pipeline: loading, families, probes, sampling, tiny pipelines."""
