"""The parts of `speed.py` and `speed_gpu.py`: who trains, how turns are taken, what is measured.

`usual_script.py` and `turns.py` import torch and transformers alone, so that the other library's side runs without
ours in its memory, and in an environment of its own.
"""
