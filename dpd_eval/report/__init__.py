"""The report: one self-contained HTML page from evaluations, sets, bundles, runs and audits."""
