"""Asynchronous stochastic optimisation (Heigold et al. 2014): a parameter server, sharded by tensor, and replicas that
compute gradients with parameters which others have moved on meanwhile."""
