"""From a checkpoint to a live pipeline: loading, families, probes, sampling, tiny pipelines.

Everything here that imports diffusers does so after this: code that comes with a checkpoint stays switched off,
unless whoever runs the process has set the switch.
"""

import os

os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
