"""Training with PyTorch: labelled images in, a run directory out."""

from dpd_runtime.moved import keep_names  # dpd_runtime first, as it switches telemetry off

keep_names(
    {
        "dpd_train.images": "dpd_train.scenes",
        "dpd_train.bases.base": "dpd_train.bases",
        "dpd_train.compute.rs_dgc": "dpd_neighbours.rs_dgc",
        "dpd_train.run.planning": "dpd_distill.plan",
        "dpd_train.run.planning.plan": "dpd_distill.plan",
        "dpd_train.run.planning.speed": "dpd_distill.speed",
    }
)
