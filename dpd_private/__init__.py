"""Codes with differential privacy: private images enter through class sums and one second moment only.

`command` and `request` say what can be asked for, `distillation` takes the steps, and `codes` makes the codes: of what
`public` images and networks know, `limited_watchers` measure, `release` gives once with the noise that `budget` asks
for and `ledger` counts, and `choice`, `decoder` and `classifier` use.
"""

import dpd_runtime  # noqa: F401 -- first, as it switches telemetry off
