"""Related methods: a student, two selections and two extractors, which come in by dpd_eval's extension points."""

import dpd_runtime  # noqa: F401 -- first, as it switches telemetry off
