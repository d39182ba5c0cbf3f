"""Networks that repair slices in a single step: the compact one, the paper's, and what these are trained against."""
