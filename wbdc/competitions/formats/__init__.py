"""Readers of the file formats of contests. They are strict and use bounded memory."""
