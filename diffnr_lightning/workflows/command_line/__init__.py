"""From config files and options to the arguments of a command, and what is refused on the way."""
