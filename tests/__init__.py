"""A package, so that a worker process can import what a test hands it."""
