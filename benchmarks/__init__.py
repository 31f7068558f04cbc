"""How fast asynqpy is, beside Go's asynq and other task queues (README.md)."""
