"""Follows a configuration's references between its own values, by a budget.

OmegaConf would follow them anywhere: into the environment, to a text that doubles thirty times. Of the
config.yaml beside weights, a stranger's file, no more is followed than what recipes write:
`${model.img_size}`, `${vit.${vit.size}.num_heads}`, `${oc.select:data.exif,apply}`.
"""
import re

from projects.MAE.utils.untrusted_file import yaml_mapping

INNERMOST = re.compile(r"\$\{([^${}]*)\}")
MOST_LOOKUPS = 1000  # a recipe has some forty
DEEPEST = 8  # references to references
LONGEST, LONGEST_TEXT = 200, 4096  # characters of a reference; of what it stands for
MOST_ITEMS = 16  # of a list that it stands for
MISSING = object()


def without_references(content, keep=False):
    """A configuration of plain values, as `yaml_mapping` gives it, with what its references stand for
    in their places; for those that are not followed None, or, to be shown, the text that they are.
    """
    return _References(content, keep).in_value(content)


class _References:
    def __init__(self, content, keep):
        self.content, self.keep, self.left = content, keep, MOST_LOOKUPS

    def in_value(self, value):
        if isinstance(value, dict):
            return {key: self.in_value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.in_value(item) for item in value]
        if not isinstance(value, str):
            return value
        found = self.in_text(value, 0)
        return value if found is None and self.keep else found

    def in_text(self, text, depth):
        while "${" in text:
            found = INNERMOST.search(text)
            if found is None or len(text) > LONGEST:
                return None
            value = self.looked_up(found.group(1), depth)
            if found.group() == text:
                return value
            if type(value) not in (str, int) or "${" in str(value):
                return None
            text = text[: found.start()] + str(value) + text[found.end() :]
        return text

    def looked_up(self, reference, depth):
        self.left -= 1
        if self.left < 0 or depth > DEEPEST:
            return None
        function, _, arguments = reference.rpartition(":")
        key, comma, default = arguments.partition(",")
        if function not in ("", "oc.select"):
            return None
        value = self.value_at(key if function else reference)
        if value is MISSING:
            return _parsed(default) if comma and function else None
        if isinstance(value, str):
            value = self.in_text(value, depth + 1)
        return value if _is_small(value) else None

    def value_at(self, key):
        node = self.content
        for part in key.strip().split("."):
            if isinstance(node, dict):
                node = node.get(part, MISSING)
            elif isinstance(node, list) and part.isdecimal() and len(part) < 9 and int(part) < len(node):
                node = node[int(part)]
            else:
                return MISSING
        return node


def _parsed(default):
    try:
        value = yaml_mapping(f"x: {default}")["x"]
    except (ValueError, KeyError):
        return None
    return value if _is_small(value) else None


def _is_small(value):
    if isinstance(value, list):
        return len(value) <= MOST_ITEMS and all(isinstance(item, (int, float)) for item in value)
    return not isinstance(value, dict) and (not isinstance(value, str) or len(value) <= LONGEST_TEXT)
