"""A synthetic contest: scenes, texts and archives in the real layout."""
