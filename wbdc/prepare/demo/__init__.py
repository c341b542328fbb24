"""A synthetic contest: its plan, texts, frames and archives."""
