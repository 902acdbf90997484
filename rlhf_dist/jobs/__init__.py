"""The jobs: each is built from its configuration here, wired, and run."""
