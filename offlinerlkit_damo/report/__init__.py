"""Results on disk to scores and figures; no training code."""
