"""Neural acoustic models: encoders, transition models, priors, criteria and the one training loop."""
