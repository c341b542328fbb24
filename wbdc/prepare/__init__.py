"""Raw data in, checked and stored data out."""
