"""The `dpd` command."""

import dpd_runtime  # noqa: F401 -- first, as it switches telemetry off
