"""What a curation varies from scan to scan, and the folder of pairs that it fills."""
