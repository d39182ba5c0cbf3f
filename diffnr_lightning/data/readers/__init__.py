"""Readers of files as other programs write them, one format a file.

Each volume reader returns a `StoredVolume`: values, and where the file's header puts them. Turning
to the package's axes, units of the values and everything that is alike for all formats is
`data/volumes.py`. Each reader of measured projections returns a `RawScan`; what becomes of it is
`data/measured.py`.
"""
