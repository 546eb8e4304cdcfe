"""How long a search takes, and how that compares with what one would use instead (``make bench``)."""
