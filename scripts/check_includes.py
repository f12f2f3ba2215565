#!/usr/bin/env python3
"""Names every #include in src/ that points the wrong way.

The allowed directions are the m3_library(FOLDER DEPENDS ...) lines of CMakeLists.txt: a folder may include itself,
what its line names, and what those name in turn. The picture in ARCHITECTURE.md is this rule; this script is what
keeps it true.
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


def main():
    allowed, wrong, seen = allowed_folders(), [], 0
    for file in sorted((ROOT / "src").rglob("*")):
        if file.suffix not in (".h", ".cc"):
            continue
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
    for line in wrong:
        print(line)
    print(f"{seen} includes read, {len(wrong)} point the wrong way")
    return 1 if wrong or not seen else 0


if __name__ == "__main__":
    sys.exit(main())
