"""Scripts, claims and benchmarks; importable where `pip install -e .` was run."""
