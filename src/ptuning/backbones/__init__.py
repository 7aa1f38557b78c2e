"""The only room that knows Hugging Face's models: load, freeze, describe, and hand keys and values over."""
