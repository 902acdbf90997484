"""The demo: positive movie reviews. Text, base model, data sets and judge."""
