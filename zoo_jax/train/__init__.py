"""The one training loop, and what it needs: mesh, step, checkpoints, evaluation, writers."""
