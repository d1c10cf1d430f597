"""Thin programs, one a rule: parse, call one library function."""

from avion_core.command import be_silent_when_interrupted

be_silent_when_interrupted()
