"""Training with PyTorch: labelled images in, a run directory out."""

import dpd_runtime  # noqa: F401 -- first, as it switches telemetry off
