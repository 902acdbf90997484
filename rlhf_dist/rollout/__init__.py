"""Sampling responses: engines behind one protocol, vLLM's and one of plain transformers."""
