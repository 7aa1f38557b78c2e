"""Figures and tables for people, from plain numbers: nothing here computes them, and nothing imports a model.

matplotlib is imported when a figure is drawn, not before: `pip install "ptuning[reports]"`.
"""
