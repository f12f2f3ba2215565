#!/usr/bin/env python3
"""Writes src/text/unicode_class_table.inc: the character classes that the pre-tokenizer's pattern distinguishes.

    pip install unicodedata2==16.0.0
    python3 scripts/make_unicode_classes.py > src/text/unicode_class_table.inc

The reference splits with the categories of Unicode 16 (spec: chat-and-api §1.2), so the table is pinned to that
version and does not follow whatever Unicode the regex library at hand was built with.
"""
import sys

import unicodedata2

LETTERS = {"Lu": "kUpper", "Ll": "kLower", "Lt": "kTitle", "Lm": "kModifier", "Lo": "kOtherLetter"}
MAJOR = {"M": "kMark", "N": "kNumber", "P": "kVisible", "S": "kVisible", "Z": "kSpace", "C": "kHidden"}
# White_Space beyond the separators (Z*): tab, line feed, vertical tab, form feed, carriage return, next line.
CONTROL_SPACES = {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x85}


def class_of(code_point):
    if code_point in CONTROL_SPACES:
        return "kSpace"
    category = unicodedata2.category(chr(code_point))
    return LETTERS.get(category) or MAJOR[category[0]]


def runs(classes):
    """[(first code point, class)]. Upper and lower case in turn, as in much of Latin and Cyrillic, is one run."""
    found, at = [], 0
    while at < len(classes):
        end = at + 1
        while end < len(classes) and classes[end] == classes[at]:
            end += 1
        pairs = at
        while classes[pairs:pairs + 2] == ["kUpper", "kLower"]:
            pairs += 2
        if pairs >= at + 4:
            found.append((at, "kUpperLower"))
            at = pairs
        else:
            found.append((at, classes[at]))
            at = end
    return found


def main():
    if unicodedata2.unidata_version != "16.0.0":
        sys.exit(f"needs the tables of Unicode 16.0.0, unicodedata2 has {unicodedata2.unidata_version}")
    print("// Written by scripts/make_unicode_classes.py from Unicode 16.0.0: {first code point, class}.")
    line = ""
    for first, name in runs([class_of(c) for c in range(0x110000)]):
        entry = f"{{0x{first:x}, {name}}},"
        if len(line) + len(entry) + 1 > 100:
            print(line)
            line = ""
        line += (" " if line else "") + entry
    print(line)


if __name__ == "__main__":
    main()
