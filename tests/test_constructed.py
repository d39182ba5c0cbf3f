"""Objects are told by what they were constructed with, and by what they were given since."""

import inspect
from dataclasses import dataclass, field

from diffnr_lightning.callbacks import PseudoReference
from diffnr_lightning.constructed import Constructed, given_to
from diffnr_lightning.data import CleanSliceData


@dataclass
class OfFields(Constructed):
    """Has a constructor of a dataclass."""

    strength: float = 1.0
    steps: list = field(default_factory=lambda: [1, 2])


class Base(Constructed):
    """What the others hand on to."""

    FREE = ("folder",)

    def __init__(self, folder, size=3, rate=0.5):
        self.folder, self.size, self.rate = folder, size, [rate]


class Named(Base):
    """Hands on by names."""

    def __init__(self, folder, cls="a", **shared):
        super().__init__(folder, **shared)
        self.cls = cls


class Placed(Base):
    """Hands on by places."""

    def __init__(self, *args, made, **shared):
        super().__init__(*args, **shared)
        self.made = made


class Behind(Base):
    """Hands on by places that follow its own."""

    def __init__(self, folder, *args):
        super().__init__(folder, *args)


def test_defaults_of_a_dataclass_are_what_it_made_of_them():
    assert given_to(OfFields()) == {"strength": 1.0, "steps": [1, 2]}
    assert given_to(OfFields(steps=[3]))["steps"] == [3]


def test_defaults_of_a_base_are_among_those_of_a_class():
    everything = {"cls": "a", "size": 3, "rate": 0.5}
    assert given_to(Named("here")) == given_to(Named("there", size=3)) == everything
    assert given_to(Named("here", rate=2.0, cls="b")) == {"cls": "b", "size": 3, "rate": 2.0}
    data, same, other = (
        CleanSliceData({}, **given) for given in ({}, {"flips": True}, {"flips": False})
    )
    assert given_to(data) == given_to(same) != given_to(other)
    assert "sources" not in given_to(data)


def test_arguments_are_free_by_their_place_too():
    assert given_to(Placed("here", 4, made=1)) == {"made": 1, "size": 4, "rate": 0.5}
    assert given_to(Behind("here", 4)) == {"args": (4,)} != given_to(Behind("here", 5))


def test_what_is_set_afterwards_counts():
    thing, fields_too = Named("here"), OfFields()
    thing.size, fields_too.strength = 5, 2.0
    assert given_to(thing) == given_to(Named("here", size=5))
    assert given_to(fields_too) == given_to(OfFields(2.0))
    # An attribute that never was the argument says nothing of it.
    thing.rate = [9]
    assert given_to(thing)["rate"] == 0.5


def test_a_period_that_follows_from_a_share_is_none_that_was_set():
    reference = PseudoReference(None, every_share=0.5)
    reference.adapt(100)
    assert reference.every == 50 and given_to(reference) == given_to(
        PseudoReference(None, every_share=0.5)
    )
    reference = PseudoReference(None)
    reference.every = 7
    assert given_to(reference) == given_to(PseudoReference(None, every=7))


def test_a_class_shows_the_signature_of_its_constructor():
    assert list(inspect.signature(Base).parameters) == ["folder", "size", "rate"]
