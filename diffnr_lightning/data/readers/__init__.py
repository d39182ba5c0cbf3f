"""One format of volume or scan a file: each reads an array with what its header says."""
