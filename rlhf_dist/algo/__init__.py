"""The equations of the algorithms, as pure functions of tensors: nothing here knows of models, workers or files."""
