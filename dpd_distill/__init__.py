"""A distillation from scenes to an audited bundle: the plan, and the five stages in their order."""

import dpd_runtime  # noqa: F401 -- first, as it switches telemetry off
