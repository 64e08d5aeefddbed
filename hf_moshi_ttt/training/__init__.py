"""The parts of training that `trainer.py` is built from."""
