"""Drawings of people, body parts and targets. Every public function draws on a copy."""

from personlab_keras.drawing.people import draw, draw_parts
from personlab_keras.drawing.strokes import Colour, person_colour
from personlab_keras.drawing.targets import draw_targets

__all__ = ["Colour", "draw", "draw_parts", "draw_targets", "person_colour"]
