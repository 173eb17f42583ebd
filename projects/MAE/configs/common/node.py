"""A group of settings."""
from omegaconf import OmegaConf


def node(**settings):
    """The settings as a group that is written to as `group.key = value`, also in the file that makes it.

    A plain dict becomes one only when another file imports it.
    """
    return OmegaConf.create(settings, flags={"allow_objects": True})
