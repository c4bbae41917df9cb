"""MuJoCo XLA as tasks use it, and every repair or speed-up of it on a CPU."""
