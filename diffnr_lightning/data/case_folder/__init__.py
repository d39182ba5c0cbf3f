"""The files of a case folder: how they are written and read, with what they may hold."""
