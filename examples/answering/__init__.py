"""The parts of `examples/question_answering.py`."""
