"""The method in the paper's words: divergences, classifier, objective, policy."""
