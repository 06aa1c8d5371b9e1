"""Codes with differential privacy: private images enter through class sums and one second moment only."""

import dpd_runtime  # noqa: F401 -- first, as it switches telemetry off
