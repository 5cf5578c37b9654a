"""What a URL stands for: one module a kind of server, loaded when a URL first names it."""

from .base import SCHEMES, House, Memory, Place, mask_password, place_class

__all__ = ["SCHEMES", "House", "Memory", "Place", "mask_password", "place_class"]
