"""Clean volumes that denoisers learn from: how they are kept, and what is drawn of them."""
