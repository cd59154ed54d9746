"""Neural acoustic models: encoders, transition models, priors, criteria and training."""
