"""What the paper shows of trained policies, computed from finished runs: values, distributions, curves, calibration."""
