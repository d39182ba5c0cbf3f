"""Data sets by name: how each lies on a disk, which of its volumes are for what, and how Lightning is fed with them.

`luna16:test`, `toothfairy:train[0:10]` and `folder:/data/ct` are sources of volumes for every command.
"""

from diffnr_lightning import lazy

__getattr__, __dir__, __all__ = lazy.attributes(
    __name__,
    {
        "registry": ["PUBLIC", "data_set", "known_volume", "listed_sources", "selected_volumes"],
        "sources": ["load_source", "source_sha256"],
        "words": ["names_data_set"],
    },
)
