"""Formats of other tools and data sets that hold what people said of answers, read and written: one module each."""
