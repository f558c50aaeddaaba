"""The traits of the collection family "relics": names, values, rarity weights and forbidden pairs.

The order of traits and of values is part of the models' interface: the one-hot input of the
generator and the logits of the auditor are concatenated in this order.
"""

LATENT_LENGTH = 16
IMAGE_SIZE = 64

TRAITS = [
    ("kind", ["blade", "shield", "flask", "ring", "helm", "familiar"], [24, 20, 18, 16, 14, 8]),
    ("material", ["steel", "gold", "obsidian", "jade", "wood", "ivory"], [28, 12, 14, 12, 20, 14]),
    ("palette", ["crimson", "azure", "emerald", "amber", "violet", "rose"], [20, 20, 18, 16, 14, 12]),
    ("ornament", ["plain", "bands", "dots", "chevrons", "lattice"], [30, 22, 20, 16, 12]),
    ("gem", ["none", "ruby", "sapphire", "emerald", "diamond"], [40, 20, 18, 16, 6]),
    ("glow", ["none", "golden", "cyan", "violet", "verdant"], [46, 18, 16, 12, 8]),
    ("wear", ["pristine", "scratched", "cracked", "mossy"], [40, 26, 20, 14]),
    ("background", ["night", "ember", "forest", "dusk", "sand", "frost"], [22, 18, 18, 16, 14, 12]),
]

# (trait, value, other trait, other value): pairs that the rarity rules must never produce.
EXCLUSIONS = [
    ("kind", "flask", "material", "wood"),
    ("material", "gold", "wear", "mossy"),
    ("gem", "diamond", "wear", "mossy"),
    ("glow", "golden", "background", "sand"),
]

CARDINALITIES = [len(values) for _, values, _ in TRAITS]
WIDTH = sum(CARDINALITIES)
OFFSETS = [sum(CARDINALITIES[:i]) for i in range(len(CARDINALITIES) + 1)]
NAMES = [name for name, _, _ in TRAITS]
