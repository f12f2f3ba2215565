#!/usr/bin/env python3
"""Names every #include in src/ that points the wrong way, and every type whose name means two things.

The allowed directions are the m3_library(FOLDER DEPENDS ...) lines of CMakeLists.txt: a folder may include itself,
what its line names, and what those name in turn. The picture in ARCHITECTURE.md is this rule; this script is what
keeps it true.

Two types of one name in one namespace link without a word, and then one's destructor runs on the other.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEYWORDS = {"DEPENDS", "LINK"}


def allowed_folders():
    """{folder: set of folders it may include}, from CMakeLists.txt."""
    direct = {}
    for body in re.findall(r"^m3_library\((.*?)\)", (ROOT / "CMakeLists.txt").read_text(), re.M | re.S):
        words = body.split()
        folder, depends, key = words[0], [], None
        for word in words[1:]:
            if word in KEYWORDS:
                key = word
            elif key == "DEPENDS":
                depends.append(word)
        direct[folder] = depends

    def closure(folder):
        found = {folder}
        for d in direct[folder]:
            found |= closure(d)
        return found

    return {folder: closure(folder) for folder in direct}


def folder_of(path, folders):
    """The longest known folder that `path` (relative to src/) lies in."""
    fits = [f for f in folders if path.startswith(f + "/")]
    return max(fits, key=len) if fits else None


def misplaced_includes():
    """(how many includes there are, what is wrong with some)"""
    allowed, wrong, seen = allowed_folders(), [], 0
    for file in source_files():
        path = str(file.relative_to(ROOT / "src"))
        home = folder_of(path, allowed)
        if home is None:
            wrong.append(f"src/{path}: lies in no folder that CMakeLists.txt declares with m3_library")
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            if not match:
                continue
            seen += 1
            target = folder_of(match[1], allowed)
            if target is None:
                wrong.append(f"src/{path}:{number}: \"{match[1]}\" is not written from src/ (folder/file.h)")
            elif target not in allowed[home]:
                wrong.append(f"src/{path}:{number}: {home} must not include {target} (\"{match[1]}\")")
    return seen, wrong


def types_of(file):
    """(name with its namespaces, line number) of each type that other files can see."""
    namespaces = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if match := re.match(r"(?:inline )?namespace ([\w:]*) ?{", line):
            namespaces.append(match[1])
        elif line.startswith("}  // namespace"):
            namespaces.pop()
        elif match := re.match(r"(?:struct|class|union|enum(?: class)?) (?:\w+\([^)]*\) )?([\w:]+)(?: final)?(?: :.*)? {", line):
            if "" not in namespaces:  # what is in a namespace without a name, others cannot see
                yield "::".join([*namespaces, match[1]]), number


def types_of_one_name():
    """(how many types there are, which of them share a name)"""
    places = {}
    for file in source_files():
        for name, number in types_of(file):
            places.setdefault(name, []).append(f"{file.relative_to(ROOT)}:{number}")
    return len(places), [f"{where[-1]}: {name} is also the name of the type at {where[0]}"
                         for name, where in places.items() if len(where) > 1]


def source_files():
    return [file for file in sorted((ROOT / "src").rglob("*")) if file.suffix in (".h", ".cc")]


def main():
    includes, misplaced = misplaced_includes()
    types, doubled = types_of_one_name()
    for line in misplaced + doubled:
        print(line)
    print(f"{includes} includes read, {len(misplaced)} point the wrong way; {types} types, {len(doubled)} share a name")
    return 1 if misplaced or doubled or not includes or not types else 0


if __name__ == "__main__":
    sys.exit(main())
