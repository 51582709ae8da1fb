"""Training: the trainer, the evaluation of a policy, and a whole run from a configuration."""
