"""One algorithm, one file: `Config` and `make(env, config) -> Learner`."""
