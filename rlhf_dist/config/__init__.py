"""The schema of the configuration, how files and the command line fill it, and what is refused."""
