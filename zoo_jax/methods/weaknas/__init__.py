"""WeakNAS: architecture search by predictors that need to be good near the top only."""
