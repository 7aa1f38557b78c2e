"""Attention of our own, for families that do not use transformers' attention interface.

Each module has one function, `prompted_forward`, that stands in for the forward of the family's self-attention. With
no prompts for the layer it calls the family's own. Base implementations are eager (weights step by step, as the
family does it) and sdpa (torch's fused attention with everything else in its additive mask).
"""
