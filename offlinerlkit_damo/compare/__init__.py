"""Many runs from one plan: tasks x algorithms x seeds, run, continued, and gathered into one table."""
