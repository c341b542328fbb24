"""File formats that contests use, read strictly and in bounded memory."""
