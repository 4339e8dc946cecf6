"""The parts of `examples/language_model.py`."""
