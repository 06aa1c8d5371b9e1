"""Related methods: each stands by itself and comes in through a door of dpd_train, dpd_eval or dpd_export."""

import dpd_runtime  # noqa: F401 -- first, as it switches telemetry off
