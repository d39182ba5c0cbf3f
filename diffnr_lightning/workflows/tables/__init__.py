"""Tables of papers as folders: what is in them, what is wrong with them, and what fails in them."""
