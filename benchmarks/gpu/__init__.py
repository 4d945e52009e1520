"""The steps of `gpu_acceptance.py`."""
