"""What the studio is doing, for those who run it: figures read from rows and files, as a page and as metrics."""
