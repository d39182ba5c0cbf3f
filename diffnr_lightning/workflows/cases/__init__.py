"""Where volumes come from, and the cases that are scanned of them once."""
