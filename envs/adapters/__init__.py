"""Other suites as our `Env`, and our `Env` as Gymnasium's."""
