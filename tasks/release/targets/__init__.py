"""Serving targets, one file each; this union is the list of them."""

from tasks.release.targets.none import NoTarget

Target = NoTarget
