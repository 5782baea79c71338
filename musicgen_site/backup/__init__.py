"""The whole studio in one file, and back: rows in a form that every database takes, and the files they speak of."""
