"""Drafters: one kind a file, each a class that satisfies ``decoding.protocols.Drafter``.

``factory.make_drafter`` makes any of them from its ``DrafterSpec``. A drafter that needs no model of the bundle is
registered here by its name; no other module has to know it.
"""

from export.manifest import DRAFT_TABLE_NAME
from runtime.drafters import suffix, table
from runtime.drafters.registry import register

register(suffix.NAME, lambda spec, resources: suffix.SuffixDrafter(others=resources.other_texts), suffix.LONGEST)
register(table.NAME, table.make, table.LONGEST, "tree", DRAFT_TABLE_NAME)
